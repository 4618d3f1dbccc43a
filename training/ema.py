"""Exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .schedule import ema_decay
from .sharding import like, own_part


class Ema:
    """Averages the parameters of `module` that are trained: average <- d * average + (1 - d) * weight.

    The decay d warms up, `schedule.ema_decay`, so that the first, random weights are forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.weights = {k: p for k, p in module.named_parameters() if p.requires_grad}
        self.average = {k: p.detach().clone() for k, p in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights."""
        decay = ema_decay(self.decay, self.num_updates)
        weights = [own_part(p.detach()) for p in self.weights.values()]
        averages = [own_part(a) for a in self.average.values()]
        torch._foreach_lerp_(averages, weights, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self.num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module has the averaged weights: storages are swapped, nothing is copied (split ones are)."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, weight in self.weights.items():
            if isinstance(weight, DTensor):
                mine, average = own_part(weight.detach()), own_part(self.average[name])
                kept = mine.clone()
                mine.copy_(average)
                average.copy_(kept)
            else:
                weight.data, self.average[name] = self.average[name], weight.data

    def load(self, average: Mapping[str, Tensor], num_updates: int) -> None:
        """Take over a saved average with the same names."""
        for name, value in self.average.items():
            value.copy_(like(average[name], value))
        self.num_updates = num_updates
