"""Planning of segments with integers, and noise that depends on the frame alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from .config import SegmentConfig

_WORD = 2**32 - 1


@dataclass(frozen=True)
class Segment:
    """New frames [start, stop) and how many finished frames before `start` are given as history."""

    start: int
    stop: int
    num_history: int

    @property
    def length(self) -> int:
        """Number of new frames."""
        return self.stop - self.start


def plan_segments(num_frames: int, cfg: SegmentConfig) -> list[Segment]:
    """Cut `num_frames` into segments: their new frames tile [0, num_frames), the first has no history.

    The last segment may be shorter. Every segment but the last is the same whatever the video's length.
    Raises `UserError` if there is no frame.
    """
    if num_frames < 1:
        raise UserError(f"a video of {num_frames} frames cannot be animated: it needs at least one")
    starts = range(0, num_frames, cfg.length)
    return [Segment(s, min(s + cfg.length, num_frames), cfg.num_history if s else 0) for s in starts]


def frame_noise(frames: range, shape_CHW: tuple[int, ...], seed: int) -> Tensor:
    """Gaussian noise (F, C, H, W), float32 on the CPU, a function of (seed, absolute frame index) alone.

    Different seeds give different noise, however large they are: torch's generator takes 32 bits, so a seed is cut into
    numbers of 32 bits whose noises are added, each drawn from another place of its generator's sequence.
    Raises `UserError` for a negative seed.
    """
    if seed < 0:
        raise UserError(f"the seed must be 0 or more, got {seed}")
    words = [seed >> shift & _WORD for shift in range(0, max(seed.bit_length(), 1), 32)]

    def draw(frame: int) -> Tensor:
        noises = [
            _draw((word * 1_000_003 + frame) & _WORD, shape_CHW, place)
            for place, word in enumerate(words)
            if word or not place
        ]
        return noises[0] if len(noises) == 1 else torch.stack(noises).sum(0) / len(noises) ** 0.5

    return torch.stack([draw(f) for f in frames])


def _draw(seed: int, shape: tuple[int, ...], place: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    for _ in range(place):
        torch.randn(shape, generator=generator)
    return torch.randn(shape, generator=generator)
