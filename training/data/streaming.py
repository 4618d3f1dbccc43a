"""Training on more shards than fit in memory: a part of them is held, and changes one by one as steps go by.

Which shards are held at a step is a function of the seed and the step alone. So a resumed run goes on exactly, and the
processes of a distributed one agree. Every epoch visits every shard once, in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from ...errors import UserError
from .locations import Location
from .shards import load_shards
from .windows import LatentClips


class ClipStream:
    """`held` of the shards at `paths` at a time; the oldest is replaced every `every` steps, read ahead meanwhile.

    All shards must hold equally many clips of one shape, as `svdp data build` writes them.
    """

    def __init__(self, paths: Sequence[Location], held: int, every: int, seed: int, black: torch.Tensor) -> None:
        self.paths, self.every, self.seed = list(paths), every, seed
        self.held = min(held, len(self.paths))
        self.one = LatentClips.from_arrays(load_shards(self.paths[:1]))
        self.one.black = black
        self.clips: LatentClips | None = None
        self.slots = [-1] * self.held  # which place of the order each holds
        self.pool = ThreadPoolExecutor(1, "shards")
        self.ahead: tuple[int, Future[LatentClips]] | None = None

    @property
    def count(self) -> int:
        """Clips in all shards."""
        return len(self.one) * len(self.paths)

    def shard_at(self, place: int) -> int:
        """Which shard stands at a place of the endless order."""
        epoch, index = divmod(place, len(self.paths))
        return int(np.random.default_rng((self.seed, epoch)).permutation(len(self.paths))[index])

    def at(self, step: int) -> LatentClips:
        """The clips to draw from at a step; the next call may change them."""
        first = 0 if self.held == len(self.paths) else step // self.every
        if self.clips is None:
            self.clips = self._empty()
        for place in range(first, first + self.held):
            slot = place % self.held
            if self.slots[slot] != place:
                self._fill(self.clips, slot, self._take(place))
                self.slots[slot] = place
        if self.held < len(self.paths):
            self._read_ahead(first + self.held)
        return self.clips

    def _empty(self) -> LatentClips:
        sample = self.one
        room = (torch.empty(self.held * len(sample), *x.shape[1:], dtype=x.dtype) for x in _arrays(sample))
        return LatentClips.of_tensors(*room, black=sample.black)

    def _fill(self, clips: LatentClips, slot: int, shard: LatentClips) -> None:
        size = len(self.one)
        for mine, new in zip(_arrays(clips), _arrays(shard), strict=True):
            mine[slot * size : (slot + 1) * size] = new

    def _take(self, place: int) -> LatentClips:
        if self.ahead is not None and self.ahead[0] == place:
            return self.ahead[1].result()
        return self._read(place)

    def _read_ahead(self, place: int) -> None:
        if self.ahead is None or self.ahead[0] != place:
            self.ahead = (place, self.pool.submit(self._read, place))

    def _read(self, place: int) -> LatentClips:
        path = self.paths[self.shard_at(place)]
        clips = LatentClips.from_arrays(load_shards([path]))
        if [x.shape for x in _arrays(clips)] != [x.shape for x in _arrays(self.one)]:
            raise UserError(
                f"{path} has {len(clips)} clips of {clips.num_frames} frames, {self.paths[0]} has {len(self.one)} of "
                f"{self.one.num_frames}: streaming needs shards of one kind; build them with one configuration"
            )
        return clips


def _arrays(clips: LatentClips) -> tuple[torch.Tensor, ...]:
    return clips.sources, clips.target, clips.driving, clips.regions
