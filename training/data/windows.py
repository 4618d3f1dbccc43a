"""Clips of pre-encoded latents in memory, and the windows that training draws from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ...model.tokens import select_tokens, token_mask
from ..config import DataSettings


@dataclass(frozen=True)
class ClipBatch:
    """A batch of windows, latents in float32 at (B, ...): as the model sees them.

    target (B, F, C, h, w); source (B, C, h, w); driving (B, F, C, h, w); regions (B, F, R, h, w) bool, of what the
    driver shows; history (B, H, C, h, w), H may be 0; clips (B,) indices into the data.
    """

    target: Tensor
    source: Tensor
    driving: Tensor
    regions: Tensor
    history: Tensor
    clips: Tensor

    def to(self, device: torch.device) -> ClipBatch:
        """The same batch on a device."""
        return ClipBatch(**{k: v.to(device, non_blocking=True) for k, v in vars(self).items()})

    def needed_tokens(self, patch: int) -> Tensor:
        """How many driving tokens the frame needs that needs most: a scalar."""
        return token_mask(self.regions.flatten(0, 1), patch).sum(1).max()

    def driving_index(self, patch: int, multiple: int, least: int = 0) -> Tensor:
        """Kept driving tokens (B, F, K); K is the most that any frame of the batch needs, and no less than `least`."""
        columns = self.regions.shape[-1] // patch
        index = select_tokens(token_mask(self.regions.flatten(0, 1), patch), multiple, columns, least)
        return index.unflatten(0, self.regions.shape[:2])


@dataclass(frozen=True)
class Window:
    """Where a sample comes from: indices into a clip, all drawn before any latent is touched."""

    clip: int
    frames: tuple[int, ...]  # history first
    source: int  # below the number of stored sources: one of those; above: a frame of the target
    kept_regions: tuple[bool, ...]


class LatentClips:
    """Clips (n of them) held in memory as float16, T frames each: see `training.data.shards` for the file format.

    Arguments: sources (n, S, C, h, w), target and driving (n, T, C, h, w), regions (n, T, R, h, w) uint8 or bool.
    Raises `UserError` if there is no clip or the shapes do not belong together.
    """

    def __init__(self, sources: Any, target: Any, driving: Any, regions: Any) -> None:
        self.sources, self.target, self.driving = (_as_half(x) for x in (sources, target, driving))
        self.regions = torch.from_numpy(np.asarray(regions)) > 0
        if not len(self.target):
            raise UserError("the shards hold no clip: build them first (svdp data build)")
        shapes = {tuple(x.shape[i] for i in (0, 1, -2, -1)) for x in (self.target, self.driving, self.regions)}
        if len(shapes) != 1 or self.driving.shape != self.target.shape or len(self.sources) != len(self.target):
            raise UserError(f"shards are inconsistent: clips, frames and sizes differ between arrays: {sorted(shapes)}")
        self.black = _black_latent(self.driving, self.regions)

    @classmethod
    def of_tensors(
        cls, sources: Tensor, target: Tensor, driving: Tensor, regions: Tensor, *, black: Tensor
    ) -> LatentClips:
        """From tensors as they are, unchecked and perhaps still empty; `black` (C, h, w) is a black frame's latent."""
        made = cls.__new__(cls)
        made.sources, made.target, made.driving, made.regions, made.black = sources, target, driving, regions, black
        return made

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> LatentClips:
        """From a mapping with the arrays of the constructor, as `training.data.shards.load_shards` gives it."""
        return cls(*(arrays[name] for name in ("sources", "target", "driving", "regions")))

    def __len__(self) -> int:
        return len(self.target)

    @property
    def count(self) -> int:
        """Clips in all shards: those in memory."""
        return len(self)

    def at(self, step: int) -> LatentClips:
        """The clips to draw from at a step: all of them (`training.data.streaming` holds a part)."""
        return self

    @property
    def num_frames(self) -> int:
        """Frames T of every clip."""
        return self.target.shape[1]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a frame."""
        return tuple(self.target.shape[2:])  # type: ignore[return-value]

    def require_window(self, frames: int) -> None:
        """Raise `UserError` if the clips are too short for a window of `frames`."""
        if frames > self.num_frames:
            raise UserError(f"the stages need clips of {frames} frames, but the shards have {self.num_frames}")

    def draw_window(
        self, generator: torch.Generator, frames: int, history: int, strides: Sequence[int], data: DataSettings
    ) -> Window:
        """Draw one window; every number comes from `generator`, in a fixed order."""
        fitting = [s for s in strides if (frames + history - 1) * s < self.num_frames]
        chance = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
        clip = int(chance[0] * len(self))
        stride = fitting[int(chance[1] * len(fitting))]
        start = int(chance[2] * (self.num_frames - (frames + history - 1) * stride))
        window = [start + stride * i for i in range(frames + history)]
        if chance[3] < data.reverse:
            window.reverse()
        source = self._draw_source(chance[4], chance[5], window[history:], data)
        kept = torch.rand(self.regions.shape[2], generator=generator) >= data.region_dropout
        if chance[6] < data.driver_dropout:
            kept[:] = False
        return Window(clip, tuple(window), source, tuple(kept.tolist()))

    def _draw_source(self, choice: float, which: float, shown: list[int], data: DataSettings) -> int:
        stored = self.sources.shape[1]
        far = [t for t in range(self.num_frames) if min(abs(t - s) for s in shown) >= data.source_distance]
        if far and choice < data.target_source:
            return stored + far[int(which * len(far))]
        return int(which * stored)

    def read(self, windows: Sequence[Window], history: int) -> ClipBatch:
        """The latents of windows, all of the same length."""
        clips = torch.tensor([w.clip for w in windows])
        frames = torch.tensor([w.frames for w in windows])
        past, shown = frames[:, :history], frames[:, history:]
        kept = torch.tensor([w.kept_regions for w in windows])
        driving, regions = self.driving[clips[:, None], shown].float(), self.regions[clips[:, None], shown]
        for i in (~kept.all(1)).nonzero().flatten().tolist():  # few
            driving[i], regions[i] = self._drop_regions(driving[i], regions[i], kept[i])
        return ClipBatch(
            target=self.target[clips[:, None], shown].float(),
            source=torch.stack([self._source(w) for w in windows]),
            driving=driving,
            regions=regions,
            history=self.target[clips[:, None], past].float(),
            clips=clips,
        )

    def _source(self, window: Window) -> Tensor:
        stored = self.sources.shape[1]
        if window.source < stored:
            return self.sources[window.clip, window.source].float()
        return self.target[window.clip, window.source - stored].float()

    def _drop_regions(self, driving: Tensor, regions: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """A driver (F, C, h, w) that shows only the kept regions: black latents where a dropped one reached."""
        left = regions & kept[:, None, None]
        reach = F.max_pool2d(regions[:, ~kept].float().amax(1, keepdim=True), 3, stride=1, padding=1) > 0
        gone = reach & ~left.any(1, keepdim=True)
        return torch.where(gone, self.black, driving), left

    def sample(
        self,
        generators: Sequence[torch.Generator],
        frames: int,
        history: int = 0,
        strides: Sequence[int] = (1,),
        data: DataSettings | None = None,
    ) -> ClipBatch:
        """One window of `history + frames` frames per generator: the sample depends on its generator alone."""
        data = data or DataSettings()
        windows = [self.draw_window(g, frames, history, strides, data) for g in generators]
        batch = self.read(windows, history)
        if not data.driver_noise:
            return batch
        noise = torch.stack([torch.randn(batch.driving.shape[1:], generator=g) for g in generators])
        return replace(batch, driving=batch.driving + data.driver_noise * noise)

    def fixed(self, count: int, frames: int, history: int) -> ClipBatch:
        """The first stored source and the last window of `count` clips, spread over the data: for held-out tests."""
        clips = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)
        start = self.num_frames - frames - history
        window = tuple(range(start, self.num_frames))
        kept = (True,) * self.regions.shape[2]
        return self.read([Window(int(c), window, 0, kept) for c in clips], history)


def _as_half(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float16))


def _black_latent(driving: Tensor, regions: Tensor, most: int = 64) -> Tensor:
    """Latents (C, h, w) of a black frame: the mean of what no region touches, place by place (borders differ)."""
    some = slice(None, None, max(1, len(driving) // most))
    latents = driving[some].flatten(0, 1).float()
    covered = regions[some].flatten(0, 1).any(1, keepdim=True).float()
    free = 1 - F.max_pool2d(covered, 3, stride=1, padding=1)
    here = (latents * free).sum(0) / free.sum(0).clamp(min=1)
    anywhere = (latents * free).sum((0, 2, 3)) / free.sum().clamp(min=1)
    return torch.where(free.sum(0) > 0, here, anywhere[:, None, None])
