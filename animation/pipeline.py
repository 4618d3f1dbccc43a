"""The model at work; of this package it alone imports torch and diffusers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..heads.pose import PosedFrame
from ..model.adapter import load_adapter
from ..model.autoencoder import FACTOR, LATENT_CHANNELS
from ..model.backends.diffusers import Denoiser, load_transformer, merge_lora
from ..model.backends.diffusers_vae import PictureCodec, load_autoencoder
from ..model.config import AdapterConfig, SamplingConfig, SegmentConfig, Solver, by_preset, sampling_from_info
from ..model.precision import computes_bfloat16
from ..model.sampling import SegmentSignals, generate
from ..model.segments import Segment, plan_segments
from ..signals.crops import CropConfig
from .config import AnimateConfig, WeightFiles
from .driver import DrivingFrames, DrivingSignals

log = logging.getLogger(__name__)

_PIXELS_AT_ONCE = 2_000_000  # pictures encoded or decoded together, so that memory does not depend on their size
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Model:
    """A loaded model and how to run it."""

    denoiser: Denoiser
    codec: PictureCodec
    sampling: SamplingConfig
    segments: SegmentConfig
    crop: CropConfig
    device: torch.device
    dtype: torch.dtype

    @property
    def adapter(self) -> AdapterConfig:
        """What the adapter is."""
        return self.denoiser.adapter.config


@dataclass(frozen=True)
class AnimatedFrame:
    """One result: frame number, driving picture, masked driving picture and result, each (R, R, 3) uint8.

    `posed` is the posed source as large as the portrait, if there is one.
    """

    number: int
    driver: np.ndarray
    masked: np.ndarray
    result: np.ndarray
    posed: PosedFrame | None = None


@dataclass(frozen=True)
class Position:
    """Where a segment begins: its first frame, and the latents (H, C, h, w) float32 of the frames before, if any."""

    frame: int = 0
    history: Tensor | None = None


BEGINNING = Position()


@dataclass(frozen=True)
class LoadedModel:
    """Base, adapter and autoencoder in memory, for any number of runs; several threads may use it at once.

    `info` is the adapter file's free metadata.
    """

    weights: WeightFiles
    denoiser: Denoiser
    codec: PictureCodec
    info: dict[str, Any]
    device: torch.device
    dtype: torch.dtype


def load_weights(weights: WeightFiles, device_name: str, dtype_name: str, strength: float = 1.0) -> LoadedModel:
    """Read base, adapter and autoencoder.

    Raises UserError: a file is missing, damaged or of another kind; the adapter is for another base (both named); the
    device or precision is not to be had.
    """
    device = choose_device(device_name)
    dtype = choose_dtype(dtype_name, device)
    file = load_adapter(weights.adapter, dtype)
    denoiser = Denoiser(load_transformer(weights.base, dtype), file.adapter, strength)
    merge_lora(denoiser.transformer, file.lora, strength)
    denoiser.requires_grad_(False).train(False).to(device)
    channels = file.adapter.config.base.channels
    if channels != LATENT_CHANNELS:
        raise UserError(
            f"base model {weights.base} has {channels} latent channels, but autoencoders of SD3 have "
            f"{LATENT_CHANNELS}: give another base and its adapter"
        )
    codec = load_autoencoder(weights.autoencoder, device, dtype)
    return LoadedModel(weights, denoiser, codec, file.info, device, dtype)


def load_model(cfg: AnimateConfig) -> Model:
    """Read a model as `load_weights` does, and settle what `cfg` leaves open."""
    return settled(load_weights(cfg.weights, cfg.device, cfg.dtype, cfg.strength), cfg)


def settled(loaded: LoadedModel, cfg: AnimateConfig) -> Model:
    """The model with one run's settings over its own. Raises UserError: a resolution that does not fit it; more
    history than the segment is long."""
    adapter = loaded.denoiser.adapter.config
    resolution = cfg.resolution or adapter.resolution
    _check_resolution(resolution, adapter)
    return Model(
        denoiser=loaded.denoiser,
        codec=loaded.codec,
        sampling=sampling_config(cfg, loaded.info),
        segments=SegmentConfig(
            length=cfg.segment_length or adapter.segment_length,
            num_history=adapter.num_history if cfg.history is None else cfg.history,
        ),
        crop=CropConfig(size=resolution, scale=cfg.crop_scale or adapter.crop_scale),
        device=loaded.device,
        dtype=loaded.dtype,
    )


def sampling_config(cfg: AnimateConfig, info: dict[str, Any]) -> SamplingConfig:
    """Single wishes over the preset's over the adapter file's own (`info["sampling"]`) over the usual values."""
    base = by_preset(sampling_from_info(info), cfg.preset)
    wished_fusion = {
        "source": cfg.fusion_source,
        "driving": cfg.fusion_driving,
        "history": cfg.fusion_history,
        "rescale": cfg.fusion_rescale,
    }
    return replace(
        base,
        seed=cfg.seed,
        fusion=replace(base.fusion, **{k: v for k, v in wished_fusion.items() if v is not None}),
        steps=base.steps if cfg.steps is None else cfg.steps,
        solver=base.solver if cfg.solver is None else cast(Solver, cfg.solver),
        history_noise=base.history_noise if cfg.history_noise is None else cfg.history_noise,
        start=base.start if cfg.start_level is None else cfg.start_level,
    )


def animate_frames(
    model: Model,
    source: np.ndarray,
    driver: DrivingSignals,
    num_frames: int,
    on_step: Callable[[], None],
    *,
    limit: int | None = None,
    begin: Position = BEGINNING,
    on_segment: Callable[[Position], None] | None = None,
) -> Iterator[AnimatedFrame]:
    """Results in order.

    Args:
        source: the cropped portrait (R, R, 3).
        driver: begins with frame `begin.frame`. num_frames: all frames of the driver.
        on_step: called after every sampling step; may raise to stop.
        limit: at most so many frames, counted from 0. They are the first of the whole result: the last segment is
            sampled in full and cut.
        begin: one of the positions that `on_segment` was told in an earlier run; the rest comes out the same.
        on_segment: told, after a segment's frames were taken, where the next begins.
    """
    plan = _segments(model, num_frames, limit, begin)
    last = num_frames if limit is None else limit
    return _with_memory_advice(_animate(model, source, driver, plan, last, on_step, begin.history, on_segment))


def _animate(
    model: Model,
    source: np.ndarray,
    driver: DrivingSignals,
    plan: list[Segment],
    last: int,
    on_step: Callable[[], None],
    history: Tensor | None,
    on_segment: Callable[[Position], None] | None,
) -> Iterator[AnimatedFrame]:
    now: list[DrivingFrames] = []  # of the segment that is being made

    def signals_of(segment: Segment) -> SegmentSignals:
        now[:] = [driver.take(segment.length)]
        return segment_signals(model, now[0])

    results = generate(
        model.denoiser,
        encode(model, source[None])[0],
        signals_of,
        plan,
        model.sampling,
        device=model.device,
        dtype=model.dtype,
        on_step=lambda segment, step, x0: on_step(),
        history=history,
    )
    for result in results:
        frames = now[0]
        for i, picture in enumerate(decode(model, result.latents[: last - frames.first])):
            posed = frames.fine[i] if frames.fine else None
            yield AnimatedFrame(frames.first + i, frames.pictures[i], frames.masked[i], picture, posed)
        if on_segment is not None:
            history = _latest(history, result.latents, model.segments.num_history)
            on_segment(Position(result.segment.stop, history))


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ran out, on a device or here; torch says the latter by a RuntimeError."""
    if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
        return "not enough memory" in str(error) or "can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def _segments(model: Model, num_frames: int, limit: int | None, begin: Position) -> list[Segment]:
    stop = num_frames if limit is None else limit
    return [s for s in plan_segments(num_frames, model.segments) if begin.frame <= s.start < stop]


def _latest(history: Tensor | None, latents: Tensor, count: int) -> Tensor | None:
    """The last `count` frames (H, C, h, w) float32 on the CPU."""
    if not count:
        return None
    new = latents.detach().to("cpu", torch.float32)
    return (new if history is None else torch.cat([history, new]))[-count:].clone()


def segment_signals(model: Model, frames: DrivingFrames) -> SegmentSignals:
    """What the adapter wants of some driving frames; only that is encoded."""
    masks = torch.from_numpy(frames.masks).float() / 255
    config = model.adapter
    signals = SegmentSignals(
        F.max_pool2d(masks, FACTOR).to(model.device),
        driving=encode(model, frames.masked) if config.uses_driving_latents else None,
        driving_pixels=_pixels(frames.masked, masks.amax(1)) if config.aligned == "pixels" else None,
    )
    if not config.posed or frames.posed is None or frames.known is None:
        return signals
    posed_pixels = _pixels(frames.posed, torch.from_numpy(frames.known) / 255)
    return replace(signals, posed_pixels=posed_pixels, posed=encode(model, frames.posed))


def _pixels(pictures: np.ndarray, mask: Tensor) -> Tensor:
    """(F, 4, R, R) float32 in 0..1: pictures (F, R, R, 3) uint8 and a mask (F, R, R)."""
    return torch.cat([torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, mask[:, None].float()], 1)


def _with_memory_advice(results: Iterator[AnimatedFrame]) -> Iterator[AnimatedFrame]:
    try:
        yield from results
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise UserError(
            "the device ran out of memory: lower --resolution or --segment-length, or give --dtype bfloat16"
        ) from error


def count_steps(model: Model, num_frames: int, limit: int | None = None, begin: Position = BEGINNING) -> int:
    """How often `on_step` will be called; arguments as in `animate_frames`."""
    return len(_segments(model, num_frames, limit, begin)) * model.sampling.steps


@torch.no_grad()
def encode(model: Model, pictures: np.ndarray) -> Tensor:
    """Pictures (F, R, R, 3) uint8 -> latents (F, 16, R/8, R/8) in float32."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    parts = [model.codec.encode(p.to(model.device, model.dtype) / 255).float() for p in x.split(_at_once(x))]
    return torch.cat(parts)


@torch.no_grad()
def decode(model: Model, latents: Tensor) -> Iterator[np.ndarray]:
    """Latents (F, 16, h, w) -> pictures (8h, 8w, 3) uint8, one by one. Raises UserError if numbers ran over."""
    if not torch.isfinite(latents).all():
        raise UserError(f"the result is not a number in {model.dtype}: {_number_advice(model.dtype)}")
    for part in latents.to(model.device, model.dtype).split(max(1, _at_once(latents) // FACTOR**2)):
        pictures = model.codec.decode(part).float()
        if not torch.isfinite(pictures).all():
            raise UserError(f"the decoded picture is not a number in {model.dtype}: {_number_advice(model.dtype)}")
        yield from (pictures * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _number_advice(dtype: torch.dtype) -> str:
    """What helps when numbers ran over: more precision, where there is more."""
    if dtype != torch.float32:
        return "run again with --dtype float32"
    return "these weights cannot do it with these settings; lower the fusion weights or --strength, or add steps"


def _at_once(x: Tensor) -> int:
    return max(1, _PIXELS_AT_ONCE // (x.shape[-1] * x.shape[-2]))


def choose_device(name: str) -> torch.device:
    """ "auto": CUDA, else Apple's GPU, else the CPU. Raises UserError if the named one is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=name)
        probe.item()  # some are there and hold no values
        return probe.device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}): try --device cpu"
        ) from error


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto": bfloat16 where the device computes with it, float32 elsewhere."""
    if name == "auto":
        name = "bfloat16" if computes_bfloat16(device) else "float32"
    elif device.type == "cpu" and (name == "float16" or (name == "bfloat16" and not computes_bfloat16(device))):
        log.warning("this processor does not compute in %s, which makes it slow: --dtype float32 is faster", name)
    return _DTYPES[name]


def _check_resolution(resolution: int, adapter: AdapterConfig) -> None:
    step = FACTOR * adapter.base.patch
    if resolution % step:
        raise UserError(f"resolution must be a multiple of {step}, got {resolution}")
    limit = adapter.base.table_size // 3 * step
    if resolution > limit:
        raise UserError(
            f"resolution {resolution} is too large for this base: its positional table of {adapter.base.table_size} "
            f"patches must be three pictures wide, so at most {limit}"
        )
