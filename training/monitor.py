"""What can be seen of a run: losses per branch and noise level, condition-swap gaps on held-out clips, sample grids."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor, autocast
from torch.utils.tensorboard import SummaryWriter

from ..errors import UserError
from ..model.backends.diffusers import Denoiser
from ..model.config import AdapterConfig
from ..model.flow import add_noise, velocity_target
from ..model.fusion import BRANCHES, Branch
from ..model.streams import Conditions
from .checkpoint import Progress
from .config import StageSettings, TrainConfig
from .data.windows import ClipBatch, LatentClips
from .grids import SampleGrid, animation
from .loss import NUM_SIGMA_BINS, region_errors, sigma_bin
from .schedule import rng

log = logging.getLogger(__name__)

PROBE_SIGMAS = (0.85, 0.5)


def conditions_of(
    batch: ClipBatch, branch: Branch, adapter: AdapterConfig, history: Tensor | None = None, least_tokens: int = 0
) -> Conditions:
    """What a branch sees of a batch; the rest is absent. `history` replaces the batch's own (a noisy one); at least
    `least_tokens` driving tokens are kept."""
    past = batch.history if history is None else history
    index = None
    if branch in ("d", "p") and adapter.uses_tokens:
        index = batch.driving_index(adapter.base.patch, adapter.token_multiple, least_tokens)
    return Conditions(
        source=batch.source if branch != "u" else None,
        driving=batch.driving if branch in ("d", "p") else None,
        driving_index=index,
        history=past if branch == "p" and past.shape[1] else None,
    )


def swapped(batch: ClipBatch, signal: str) -> ClipBatch:
    """The same clips with the driver, source or history of the next clip in the batch."""
    names = {"driver": ("driving", "regions"), "source": ("source",), "history": ("history",)}[signal]
    return replace(batch, **{name: getattr(batch, name).roll(1, 0) for name in names})


class ConditionSwapGaps:
    """Velocity errors on fixed held-out clips and noise, with right and with wrong conditions.

    A condition-swap gap is the error with a signal from another clip less the error with the right one, in the
    driver's regions and outside. Near zero, the model ignores that signal: the loss alone does not show it.
    """

    def __init__(self, clips: LatentClips, count: int, seed: int, chunk: int) -> None:
        self.clips, self.count, self.seed, self.chunk = clips, count, seed, chunk

    def measure(self, denoiser: Denoiser, frames: int, history: int) -> dict[str, float]:
        """Held-out errors "loss/<branch>" and gaps "gap/<signal>/<inside|outside>"; with `history` also branch p."""
        device = next(denoiser.parameters()).device
        batch = self.clips.fixed(self.count, frames, history).to(device)
        right = self._errors(denoiser, batch, batch, ("u", "s", "d", "p") if history else ("u", "s", "d"))
        result = {f"loss/{b}": e[2] for b, e in right.items()}
        signals: tuple[tuple[str, Branch], ...] = (("driver", "d"), ("source", "d"), ("history", "p"))
        for signal, branch in signals[: 3 if history else 2]:
            wrong = self._errors(denoiser, batch, swapped(batch, signal), (branch,))[branch]
            result[f"gap/{signal}/inside"] = wrong[0] - right[branch][0]
            result[f"gap/{signal}/outside"] = wrong[1] - right[branch][1]
        return result

    @torch.no_grad()
    def _errors(
        self, denoiser: Denoiser, batch: ClipBatch, given: ClipBatch, branches: tuple[Branch, ...]
    ) -> dict[Branch, list[float]]:
        """Mean squared velocity error of each branch: in the true regions, outside, everywhere."""
        sums: dict[Branch, Tensor] = {b: torch.zeros(3) for b in branches}
        for start in range(0, len(batch.clips), self.chunk):
            own, other = _part(batch, start, self.chunk), _part(given, start, self.chunk)
            streams = denoiser.prefill(conditions_of(other, branches[-1], denoiser.adapter.config))
            for i, level in enumerate(PROBE_SIGMAS):
                noise = torch.randn(own.target.shape, generator=rng(self.seed, start, i)).to(own.target)
                sigmas = torch.full((len(own.clips),), level, device=noise.device)
                noisy, target = add_noise(own.target, noise, sigmas), velocity_target(own.target, noise)
                for branch in branches:
                    velocity = denoiser(noisy, sigmas, streams=streams, branch=branch)
                    inside, outside = region_errors(velocity, target, own.regions)
                    errors = torch.stack([inside, outside, (velocity.float() - target).square().mean()])
                    sums[branch] += errors.cpu() * len(own.clips)
        count = len(PROBE_SIGMAS) * len(batch.clips)
        return {b: (sums[b] / count).tolist() for b in branches}


def _part(batch: ClipBatch, start: int, count: int) -> ClipBatch:
    return ClipBatch(**{k: v[start : start + count] for k, v in vars(batch).items()})


class Losses:
    """Training losses since the last report, summed on the device without waiting for it."""

    def __init__(self) -> None:
        self.entries: list[tuple[Branch, Tensor, Tensor]] = []

    def add(self, branch: Branch, sigmas: Tensor, per_sample: Tensor) -> None:
        """Remember one micro-batch: noise levels (B,) and losses (B,)."""
        self.entries.append((branch, sigmas, per_sample))

    def gather(self, accelerator: Accelerator) -> None:
        """Take in what the other processes added meanwhile; all must call this at the same step."""
        if accelerator.num_processes > 1:
            self.entries = [(b, *accelerator.gather((s, loss))) for b, s, loss in self.entries]

    def take(self) -> dict[str, float]:
        """Means "loss", "branch/<b>", "sigma/<low>-<high>" of what was added, and forget it."""
        losses = torch.cat([e[2] for e in self.entries]).cpu()
        bins = sigma_bin(torch.cat([e[1] for e in self.entries]).cpu())
        result = {"loss": losses.mean().item()}
        for branch in BRANCHES:
            own = [e[2] for e in self.entries if e[0] == branch]
            if own:
                result[f"branch/{branch}"] = torch.cat(own).mean().item()
        for i in range(NUM_SIGMA_BINS):
            if (bins == i).any():
                low, high = i / NUM_SIGMA_BINS, (i + 1) / NUM_SIGMA_BINS
                result[f"sigma/{low:.1f}-{high:.1f}"] = losses[bins == i].mean().item()
        self.entries.clear()
        return result


def add_animation(writer: SummaryWriter, tag: str, frames: np.ndarray, step: int) -> None:
    """Frames (T, H, W, 3) uint8 for TensorBoard, which shows animated GIFs among its images."""
    height, width = frames.shape[1:3]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=animation(frames, "GIF"))
    summary = Summary(value=[Summary.Value(tag=tag, image=image)])
    cast(Any, writer).file_writer.add_summary(summary, step)


class Monitor:
    """TensorBoard, log lines, probes and grids of one run; silent on all processes but the main one."""

    def __init__(
        self, config: TrainConfig, out: Path, denoiser: Denoiser, heldout: LatentClips, accelerator: Accelerator
    ) -> None:
        self.config, self.out, self.denoiser, self.accelerator = config, out, denoiser, accelerator
        self.losses = Losses()
        self.gaps = ConditionSwapGaps(
            heldout, config.watch.probe_clips, config.seed, max(s.batch for s in config.stages)
        )
        self.samples = SampleGrid(config, heldout, out / "samples")
        self.writer: SummaryWriter | None = None
        self.norm: Tensor | float | None = None
        self.rate = 0.0
        self.reported: tuple[int, float] = (0, 0.0)
        self.paused = 0.0  # seconds since the last report that were not training
        self.grid_at = 0.0

    def _precision(self) -> AbstractContextManager[Any]:
        """The run's precision, for probes and grids with the float32 weights."""
        if self.config.precision == "bf16-weights":
            return autocast(self.accelerator.device.type, torch.bfloat16)
        return self.accelerator.autocast()

    def open(self, step: int, seconds: float) -> None:
        """Start writing; a resumed run drops what was logged after its checkpoint."""
        self.reported, self.grid_at = (step, time.monotonic()), seconds
        if self.accelerator.is_main_process:
            self.writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=step + 1 if step else None)

    def close(self) -> None:
        """Flush and end."""
        if self.writer is not None:
            self.writer.close()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What is done inside does not count as training in the reported time per step."""
        start = time.monotonic()
        yield
        self.paused += time.monotonic() - start

    def add(self, branch: Branch, sigmas: Tensor, per_sample: Tensor) -> None:
        """Losses of a micro-batch."""
        self.losses.add(branch, sigmas, per_sample)

    def after_step(self, norm: Any, rate: float) -> None:
        """Gradient norm and learning rate of a step; nothing is waited for."""
        self.norm, self.rate = norm, rate

    def _write(self, group: str, values: dict[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def report(self, progress: Progress) -> None:
        """Losses since the last report. Raises `UserError` if they are not finite: nothing good can follow."""
        now, (step, before) = time.monotonic(), self.reported
        per_step = (now - before - self.paused) / max(progress.step - step, 1)
        self.reported, self.paused = (progress.step, now), 0.0
        self.losses.gather(self.accelerator)
        values = self.losses.take()
        if not math.isfinite(values["loss"]):
            raise UserError(f"training diverged before step {progress.step}: resume with a lower [optim] lr or clip")
        values |= {"lr": self.rate, "grad_norm": float(self.norm or 0.0), "seconds_per_step": per_step}
        self._write("train", values, progress.step)
        branches = " ".join(f"{b} {values[f'branch/{b}']:.3f}" for b in BRANCHES if f"branch/{b}" in values)
        if self.accelerator.is_main_process:
            log.info(
                "step %d  loss %.4f  (%s)  lr %.2e  norm %.2f  %.2f s/step",
                progress.step, values["loss"], branches, self.rate, values["grad_norm"], per_step,
            )  # fmt: skip

    def probe(self, progress: Progress, stage: StageSettings) -> float:
        """Log held-out errors and condition-swap gaps of the present weights; return the held-out loss.

        That loss is the mean over the branches that the stage trains, as often as it trains them.
        """
        self.denoiser.train(False)
        with self._precision():
            values = self.gaps.measure(self.denoiser, stage.frames, stage.history)
        self.denoiser.train(True)
        weights = dict(zip(BRANCHES, stage.branches.values, strict=True))
        total = sum(w for b, w in weights.items() if f"loss/{b}" in values)
        loss = sum(w * values.get(f"loss/{b}", 0.0) for b, w in weights.items()) / total
        self._write("heldout", values | {"loss": loss}, progress.step)
        if self.accelerator.is_main_process:
            gaps = "  ".join(f"{k[4:]} {v:+.3f}" for k, v in values.items() if k.startswith("gap/"))
            log.info("step %d  held-out %.4f  condition-swap gaps: %s", progress.step, loss, gaps)
        return loss

    def grid_is_due(self, seconds: float) -> bool:
        """Whether it is time for a sample grid, after so much training time."""
        minutes = self.config.watch.grid_minutes
        return bool(minutes) and seconds - self.grid_at >= 60 * minutes

    def grid(self, progress: Progress) -> None:
        """Sample held-out clips with the present weights and draw them."""
        self.grid_at = progress.seconds
        if not self.accelerator.is_main_process or not self.samples.possible:
            return
        self.denoiser.train(False)
        with self._precision():
            picture, psnr = self.samples.draw(self.denoiser, self.config.stages[progress.stage], progress.step)
        self.denoiser.train(True)
        self._write("heldout", {"psnr": psnr}, progress.step)
        if self.writer is not None:
            self.writer.add_image("samples", picture, progress.step, dataformats="HWC")
            if self.samples.frames is not None:
                add_animation(self.writer, "video", self.samples.frames, progress.step)
        log.info("step %d  samples: %.2f dB against the true frames", progress.step, psnr)
