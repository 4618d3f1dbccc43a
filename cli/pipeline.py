"""Animating one portrait end to end; the only module of the command line that touches the model."""

from __future__ import annotations

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
from ..model.autoencoder import FACTOR
from ..model.backends.diffusers import Denoiser, load_transformer, merge_lora
from ..model.backends.diffusers_vae import PictureCodec, load_autoencoder
from ..model.config import AdapterConfig, FusionConfig, SegmentConfig, from_json
from ..model.flow import Solver
from ..model.precision import computes_bfloat16
from ..model.sampling import SamplingConfig, SegmentResult, SegmentSignals, generate
from ..model.segments import Segment, plan_segments
from ..signals.crops import CropConfig
from .config import AnimateConfig
from .driver import DrivingFrames, DrivingSignals

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


def load_model(cfg: AnimateConfig) -> Model:
    """Read base, adapter and autoencoder and settle what `cfg` leaves open.

    Raises UserError: a file is missing, damaged or of another kind; the adapter is for another base (both named); the
    device or precision is not to be had; more history than the segment is long.
    """
    device = choose_device(cfg.device)
    dtype = choose_dtype(cfg.dtype, device)
    file = load_adapter(cfg.weights.adapter, dtype)
    denoiser = Denoiser(load_transformer(cfg.weights.base, dtype), file.adapter, cfg.strength)
    merge_lora(denoiser.transformer, file.lora, cfg.strength)
    denoiser.requires_grad_(False).train(False).to(device)
    adapter = file.adapter.config
    resolution = cfg.resolution or adapter.resolution
    _check_resolution(resolution, adapter)
    return Model(
        denoiser=denoiser,
        codec=load_autoencoder(cfg.weights.autoencoder, device, dtype),
        sampling=sampling_config(cfg, file.info),
        segments=SegmentConfig(
            length=cfg.segment_length or adapter.segment_length,
            num_history=adapter.num_history if cfg.history is None else cfg.history,
        ),
        crop=CropConfig(size=resolution, scale=cfg.crop_scale or adapter.crop_scale),
        device=device,
        dtype=dtype,
    )


def sampling_config(cfg: AnimateConfig, info: dict[str, Any]) -> SamplingConfig:
    """The command line's wishes over the adapter file's own (`info["sampling"]`) over the usual values."""
    own = dict(info.get("sampling") or {})
    fusion = from_json(FusionConfig, dict(own.pop("fusion", {})))
    trained_shift = ((info.get("training") or {}).get("settings") or {}).get("loss", {}).get("shift")
    if trained_shift is not None:
        own.setdefault("shift", trained_shift)
    base = replace(from_json(SamplingConfig, own), fusion=fusion)
    wished_fusion = {
        "source": cfg.fusion_source,
        "driving": cfg.fusion_driving,
        "history": cfg.fusion_history,
        "rescale": cfg.fusion_rescale,
    }
    return replace(
        base,
        seed=cfg.seed,
        fusion=replace(fusion, **{k: v for k, v in wished_fusion.items() if v is not None}),
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
) -> Iterator[AnimatedFrame]:
    """Results in order. `source` is the cropped portrait (R, R, 3); `on_step` may raise to stop."""
    plan = plan_segments(num_frames, model.segments)
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
    )
    for result in _with_memory_advice(results):
        frames = now[0]
        for i, picture in enumerate(decode(model, result.latents)):
            posed = frames.fine[i] if frames.fine else None
            yield AnimatedFrame(frames.first + i, frames.pictures[i], frames.masked[i], picture, posed)


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


def _with_memory_advice(results: Iterator[SegmentResult]) -> Iterator[SegmentResult]:
    try:
        yield from results
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the device ran out of memory: lower --resolution or --segment-length, or give --dtype bfloat16"
        ) from error


def count_steps(model: Model, num_frames: int) -> int:
    """How often `on_step` will be called."""
    return len(plan_segments(num_frames, model.segments)) * model.sampling.steps


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
        raise UserError(f"the result is not a number in {model.dtype}: run again with --dtype float32")
    for part in latents.to(model.device, model.dtype).split(max(1, _at_once(latents) // FACTOR**2)):
        pictures = model.codec.decode(part).float()
        if not torch.isfinite(pictures).all():
            raise UserError(f"the decoded picture is not a number in {model.dtype}: run again with --dtype float32")
        yield from (pictures * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _at_once(x: Tensor) -> int:
    return max(1, _PIXELS_AT_ONCE // (x.shape[-1] * x.shape[-2]))


def choose_device(name: str) -> torch.device:
    """ "auto": CUDA, else Apple's GPU, else the CPU. Raises UserError if the named one is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}): try --device cpu"
        ) from error


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto": bfloat16 where the device computes with it, float32 elsewhere."""
    if name == "auto":
        name = "bfloat16" if computes_bfloat16(device) else "float32"
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
