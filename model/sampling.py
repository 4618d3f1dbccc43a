"""The segment loop: plan, noise, conditions, fused velocity, solver, history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import UserError
from .adapter import Adapter
from .config import AdapterConfig, FusionConfig, SamplingConfig
from .flow import sigma_schedule, solver_by_name
from .fusion import Branch, driving_map, fuse, fusion_coefficients, rescale_contrast
from .segments import Segment, frame_noise
from .streams import Conditions, Streams
from .tokens import select_tokens, token_map, token_mask


class VideoDenoiser(Protocol):
    """What sampling needs of a backend's model (`svdp.model.backends.diffusers.Denoiser` is one)."""

    adapter: Adapter

    def prefill(self, conditions: Conditions, source: Streams | None = None) -> Streams: ...

    def __call__(self, z_BFCHW: Tensor, sigma_B: Tensor, *, streams: Streams, branch: Branch) -> Tensor: ...


@dataclass(frozen=True)
class SegmentSignals:
    """Signals of one segment, None where the adapter does not want them.

    masks (F, 3, H, W) of the regions at latent size; driving (F, C, H, W) latents of the masked driver; driving_pixels
    (F, 4, 8 H, 8 W) masked driver and mask in 0..1; posed_pixels likewise, the posed source and what of it is known;
    posed (F, C, H, W) its latents.
    """

    masks: Tensor
    driving: Tensor | None = None
    driving_pixels: Tensor | None = None
    posed_pixels: Tensor | None = None
    posed: Tensor | None = None


@dataclass(frozen=True)
class SegmentResult:
    """A finished segment: latents (F, C, H, W) and the branches that were computed."""

    segment: Segment
    latents: Tensor
    branches: tuple[Branch, ...]


def generate(
    denoiser: VideoDenoiser,
    source_CHW: Tensor,
    signals_of: Callable[[Segment], SegmentSignals],
    plan: Sequence[Segment],
    cfg: SamplingConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    on_step: Callable[[Segment, int, Tensor], None] | None = None,
    history: Tensor | None = None,
) -> Iterator[SegmentResult]:
    """Animate, segment by segment; memory does not grow with the length of the video.

    Args:
        denoiser: base and adapter. source_CHW: latent of the source picture.
        signals_of: gives a segment's signals; called once per segment, in order.
        plan: from `plan_segments`. `history` (H, C, H, W): latents before `plan[0].start`, to resume a stopped run.
        on_step: called with (segment, steps done, predicted clean latents); it may raise to stop.
    Yields: results in order. The same seed and prefix of the video give the same first segments.
    """
    sigmas = cfg.start * sigma_schedule(cfg.steps, cfg.shift)
    solve = solver_by_name(cfg.solver)
    source = source_CHW[None].to(device, dtype)
    shape = (denoiser.adapter.config.base.channels, *source_CHW.shape[1:])
    source_streams: Streams | None = None
    tail = history.to(device) if history is not None else None
    for segment in plan:
        with torch.no_grad():
            past = _history(tail, segment, cfg)
            signals = signals_of(segment)
            conditions = segment_conditions(denoiser.adapter, source, signals, past, cfg.fusion, device, dtype)
            streams = denoiser.prefill(conditions, source_streams)
            source_streams = streams.branch("s")
            velocity = FusedVelocity(denoiser, streams, signals.masks.to(device), past is not None, cfg, dtype)
            noise = frame_noise(range(segment.start, segment.stop), shape, cfg.seed).to(device)
            begin = noisy_start(noise, signals.posed, cfg.start)
            step = (lambda i, x0, s=segment: on_step(s, i, x0)) if on_step is not None else None
            latents = solve(velocity, begin, sigmas, step)
        kept = latents if tail is None else torch.cat([tail, latents])
        tail = kept[-max(s.num_history for s in plan) :] if any(s.num_history for s in plan) else None
        yield SegmentResult(segment, latents, velocity.branches)


def segment_conditions(
    adapter: Adapter,
    source_1CHW: Tensor,
    signals: SegmentSignals,
    history_HCHW: Tensor | None,
    fusion: FusionConfig,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Conditions:
    """Conditions (batch of one clip) of a segment, with the tokens to keep and the aligned driver's strength."""
    patch = adapter.config.base.patch
    index = select_tokens(
        token_mask(signals.masks, patch), adapter.config.token_multiple, signals.masks.shape[-1] // patch
    )
    strength = driving_map(signals.masks, fusion)
    check_signals(adapter.config, signals)

    def batch(t: Tensor | None) -> Tensor | None:
        return t if t is None else t[None].to(device, dtype)

    return Conditions(
        source=source_1CHW,
        driving=batch(signals.driving),
        driving_pixels=batch(signals.driving_pixels),
        posed_pixels=batch(signals.posed_pixels),
        posed=batch(signals.posed),
        driving_index=index[None].to(device),
        driving_strength=token_map(strength[:, 0], patch)[None].to(device) if strength is not None else None,
        history=history_HCHW[None].to(device, dtype) if history_HCHW is not None else None,
    )


def check_signals(config: AdapterConfig, signals: SegmentSignals) -> None:
    """Raise `UserError` if the adapter needs a signal that is not there. Without a posed source it still works."""
    if config.uses_driving_latents and signals.driving is None:
        raise UserError("this adapter takes the masked driver as latents, and they are missing: encode the driver")
    if config.uses_aligned and config.aligned == "pixels" and signals.driving_pixels is None:
        raise UserError("this adapter takes the masked driver as pixels, and they are missing: encode the signals anew")
    if config.copy_gate and (signals.posed_pixels is None) != (signals.posed is None):
        raise UserError("the posed source needs its pixels and its latents: give both, or neither")


def noisy_start(noise: Tensor, posed: Tensor | None, start: float) -> Tensor:
    """Where sampling begins at noise level `start`: pure noise at 1, else the posed source's latents with noise.

    Raises `UserError` below 1 without a posed source.
    """
    if start == 1.0:
        return noise
    if posed is None:
        raise UserError(f"start {start} begins from the posed source, and there is none: use start 1")
    return (1 - start) * posed.to(noise) + start * noise


def _history(tail: Tensor | None, segment: Segment, cfg: SamplingConfig) -> Tensor | None:
    """The last frames before the segment, with optional small noise; None in the first segment."""
    if not segment.num_history or tail is None:
        return None
    past = tail[-segment.num_history :]
    return noisy_history(past, segment.start, cfg.history_noise, cfg.seed) if cfg.history_noise else past


def noisy_history(past_HCHW: Tensor, start: int, amount: float, seed: int) -> Tensor:
    """History frames, the last of which is frame `start` - 1, with `amount` of noise: a function of (seed, frame)."""
    frames = range(start - len(past_HCHW), start)
    noise = frame_noise(frames, tuple(past_HCHW.shape[1:]), seed + 1).to(past_HCHW)
    return (1 - amount) * past_HCHW + amount * noise


class FusedVelocity:
    """Velocity (F, C, H, W) of the fused branches at a noise level; branches with coefficient 0 are not computed."""

    def __init__(
        self,
        denoiser: VideoDenoiser,
        streams: Streams,
        masks_F3HW: Tensor,
        has_history: bool,
        cfg: SamplingConfig,
        dtype: torch.dtype,
    ) -> None:
        self.denoiser, self.streams, self.cfg, self.dtype = denoiser, streams, cfg, dtype
        self.has_history = has_history
        self.strength_map = driving_map(masks_F3HW, cfg.fusion)
        self.branches: tuple[Branch, ...] = ()

    def __call__(self, x_FCHW: Tensor, sigma: float) -> Tensor:
        coefficients = fusion_coefficients(self.cfg.fusion, sigma, self.cfg.shift, self.has_history, self.strength_map)
        self.branches = tuple(dict.fromkeys((*self.branches, *coefficients)))
        z, t = x_FCHW[None].to(self.dtype), torch.tensor([sigma], device=x_FCHW.device)
        velocities: dict[Branch, Tensor] = {
            b: self.denoiser(z, t, streams=self.streams, branch=b)[0] for b in coefficients
        }
        fused = fuse(velocities, coefficients)
        if not self.cfg.fusion.rescale:
            return fused
        clean: dict[Branch, Tensor] = {b: x_FCHW - sigma * v.float() for b, v in velocities.items()}
        rescaled = rescale_contrast(x_FCHW - sigma * fused, clean, self.cfg.fusion.rescale)
        return (x_FCHW - rescaled) / sigma
