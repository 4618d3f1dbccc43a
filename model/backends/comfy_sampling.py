"""ComfyUI backend, sampling: a video of any length, segment by segment, by any of ComfyUI's samplers."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...errors import UserError
from ..config import SegmentConfig
from ..fusion import Branch
from ..sampling import noisy_history
from ..segments import Segment, frame_noise, plan_segments
from ..streams import Streams
from .comfy_guider import SVDPGuider
from .comfy_signals import VideoSignals
from .comfy_store import SegmentFiles, model_parts

StepCallback = Callable[[int, Tensor, Tensor, int], None]  # (step, x0, x, steps in all), as ComfyUI's samplers call it
_RANDOM = "Noise_RandomNoise"  # ComfyUI's own seeded noise


@dataclass(frozen=True)
class SegmentReport:
    """A finished segment: time in seconds, branches computed, how far its mean latent lies from the first segment's
    (per channel, root mean square, in standard deviations of the first). `kept`: from an earlier run, not made anew."""

    segment: Segment
    seconds: float
    branches: tuple[Branch, ...]
    drift: float
    kept: bool = False


@dataclass(frozen=True)
class VideoLatents:
    """Latents (F, C, h, w) of the whole video, as the VAE decodes them, and a report per segment."""

    latents: Tensor
    reports: tuple[SegmentReport, ...]

    def text(self) -> str:
        """The report as lines of text."""
        frames, seconds = len(self.latents), sum(r.seconds for r in self.reports)
        kept = sum(r.kept for r in self.reports)
        told = f", {kept} kept from an earlier run" if kept else ""
        lines = [f"{frames} frames, {len(self.reports) - kept} segments sampled{told}, {seconds:.1f} s"]
        for number, r in enumerate(self.reports, 1):
            s = r.segment
            past = f"{s.num_history} of history" if s.num_history else "no history"
            made = "kept" if r.kept else f"{past}, branches {' '.join(r.branches)}, {r.seconds:.1f} s"
            lines.append(f"segment {number}: frames {s.start} to {s.stop - 1}, {made}, drift {r.drift:.3f}")
        return "\n".join(lines)


@dataclass(frozen=True)
class SegmentPlan:
    """How a video is cut, and how much noise its history gets."""

    segments: SegmentConfig
    history_noise: float
    start: float  # noise level at which sampling begins


def segment_plan(guider: Any, length: int, num_history: int, history_noise: float, start: float = -1.0) -> SegmentPlan:
    """What a user chose; length 0, and history, noise and start below 0, stand for the adapter's own values.

    Raises `UserError` if the guider is another node's.
    """
    if not isinstance(guider, SVDPGuider):
        raise UserError(f"this sampler needs the guider of Signal Fusion, not {type(guider).__name__}")
    own = guider.applied.config
    sampling = guider.applied.info.get("sampling") or {}
    length = length or own.segment_length
    num_history = min(own.num_history, length) if num_history < 0 else num_history
    if history_noise < 0:
        history_noise = float(sampling.get("history_noise", 0.0))
    if start < 0:  # the adapter's own value is for a posed source
        start = float(sampling.get("start", 1.0)) if guider.signals.has_posed else 1.0
    if not 0 < start <= 1:
        raise UserError(f"start must be above 0 and at most 1, got {start:g}: use 1 to begin from noise")
    return SegmentPlan(SegmentConfig(length=length, num_history=num_history), history_noise, start)


def sample_video(
    guider: SVDPGuider,
    noise: Any,
    sampler: Any,
    sigmas: Tensor,
    cfg: SegmentConfig,
    history_noise: float = 0.0,
    *,
    start: float = 1.0,
    finished: Tensor | None = None,
    folder: Path | None = None,
    on_step: StepCallback | None = None,
) -> VideoLatents:
    """Sample all frames of the guider's signals.

    Args:
        noise: ComfyUI's NOISE. Its random noise is drawn per frame as a function of (seed, frame number) alone, so the
            same beginning of a video gives the same result; another kind of noise is asked for each segment's.
        start: noise level at which sampling begins, as a share of the sigmas; below 1 it begins from the posed source.
        finished: latents (P, C, h, w) of the video's first frames from an earlier run; whole segments of them are kept
            and not made again.
        folder: where every finished segment is written, and looked for: a run that was stopped goes on from there.
        on_step: called after every step with the steps done and to do over all segments.
    Raises: `UserError` if there is no step to sample, or `finished` does not fit. An interrupt ends it at once.
    """
    if len(sigmas) < 2:
        raise UserError("the sigmas hold no step: raise the scheduler's steps or its denoise")
    sigmas, guider = sigmas * start, guider.encoded(from_posed=start < 1)
    signals = guider.signals
    if start < 1 and signals.posed is None:
        raise UserError(
            f"start {start:g} begins from the posed source, and there is none: connect posed, or use start 1"
        )
    plan = plan_segments(signals.num_frames, cfg)
    files = None if folder is None else SegmentFiles(folder, _run_parts(guider, noise, sampler, sigmas, history_noise))
    paths = [] if files is None else files.paths(plan, lambda s: _by_frame(signals.take(s.start, s.stop)))
    known = _kept(finished, plan, signals.latent_shape)
    if files is not None:
        known += [files.load(path) for path in paths[len(known) :]]
    known += [None] * (len(plan) - len(known))
    steps, sources = len(sigmas) - 1, dict[Any, Streams]()
    total, made = steps * known.count(None), 0
    done: list[Tensor] = []
    reports: list[SegmentReport] = []
    for number, segment in enumerate(plan):
        comfy.model_management.throw_exception_if_processing_interrupted()
        began, latents, branches = time.perf_counter(), known[number], ()
        if kept := latents is not None:
            done.append(latents.to(comfy.model_management.intermediate_device()))
        else:
            past = _history(guider, done, segment, history_noise, noise.seed)
            part = guider.for_frames(segment.start, segment.stop, past, sources)
            callback = _shifted(on_step, made, total)
            done.append(_sample_segment(part, noise, sampler, sigmas, segment, callback, from_posed=start < 1))
            branches, made = part.branches, made + steps
            if files is not None:
                files.save(paths[number], done[-1], segment)
        seconds = time.perf_counter() - began
        reports.append(SegmentReport(segment, seconds, branches, _drift(done[0], done[-1]), kept))
    return VideoLatents(torch.cat(done), tuple(reports))


def _run_parts(guider: SVDPGuider, noise: Any, sampler: Any, sigmas: Tensor, history_noise: float) -> dict[str, Any]:
    """All that decides the segments beside their own signals."""
    return {
        "model": model_parts(guider.model_patcher),
        "fusion": guider.fusion,
        "conditioning": guider.conditioning,
        "source": guider.signals.source,
        "noise": noise,
        "sampler": sampler,
        "sigmas": sigmas,
        "history_noise": history_noise,
    }


def _by_frame(signals: VideoSignals) -> list[Tensor | None]:
    return [signals.masks, signals.driving, signals.driving_pixels, signals.posed, signals.posed_pixels]


def _sample_segment(
    guider: SVDPGuider,
    noise: Any,
    sampler: Any,
    sigmas: Tensor,
    segment: Segment,
    callback: StepCallback | None,
    from_posed: bool,
) -> Tensor:
    empty = torch.zeros(segment.length, *guider.signals.latent_shape)
    posed = guider.signals.posed if from_posed else None
    latents = guider.sample(
        segment_noise(noise, segment, empty),
        empty if posed is None else posed,  # ComfyUI mixes it with the noise as the first sigma says
        sampler,
        sigmas,
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=noise.seed,
    )
    return latents.to(comfy.model_management.intermediate_device())


def segment_noise(noise: Any, segment: Segment, empty: Tensor) -> Tensor:
    """Noise (F, C, h, w) of a segment's frames."""
    if type(noise).__name__ == _RANDOM:
        return frame_noise(range(segment.start, segment.stop), tuple(empty.shape[1:]), noise.seed)
    return noise.generate_noise({"samples": empty, "batch_index": list(range(segment.start, segment.stop))})


def _kept(finished: Tensor | None, plan: list[Segment], shape: tuple[int, ...]) -> list[Tensor | None]:
    """Whole segments of an earlier run that are connected."""
    if finished is None:
        return []
    if tuple(finished.shape[1:]) != shape:
        raise UserError(
            f"the finished latents are {tuple(finished.shape[1:])} per frame, the signals {shape}: they are of another "
            "video or size"
        )
    return [finished[s.start : s.stop] for s in plan if s.stop <= len(finished)]


def _history(guider: SVDPGuider, done: list[Tensor], segment: Segment, amount: float, seed: int) -> Tensor | None:
    """The frames before the segment, with the noise that training adds too (mixed in where the transformer sees it)."""
    if not segment.num_history:
        return None
    past = done[-1][-segment.num_history :]
    if not amount:
        return past
    model = guider.model_patcher.model
    mixed = noisy_history(model.process_latent_in(past), segment.start, amount, seed)
    return model.process_latent_out(mixed)


def _shifted(on_step: StepCallback | None, before: int, total: int) -> StepCallback | None:
    if on_step is None:
        return None
    return lambda step, x0, x, steps: on_step(before + step, x0, x, total)


def _drift(first: Tensor, now: Tensor) -> float:
    dims = (0, 2, 3)
    away = (now.mean(dims) - first.mean(dims)) / first.std(dims).clamp_min(1e-6)
    return float(away.square().mean().sqrt())
