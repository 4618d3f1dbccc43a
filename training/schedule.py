"""What a step does, as a function of how much of the budget is spent: stage, learning rate, branch, random numbers."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch

from ..model.fusion import BRANCHES, Branch
from .config import BranchProbabilities, OptimSettings, StageSettings


class Budget(Protocol):
    """Settings of a run that ends after so many steps or minutes, whatever comes first; 0: no limit."""

    @property
    def steps(self) -> int: ...

    @property
    def minutes(self) -> float: ...


def progress_at(budget: Budget, step: int, seconds: float) -> float:
    """Share of the budget, 0 to 1, that is spent after `step` steps and `seconds` of training."""
    by_steps = step / budget.steps if budget.steps else 0.0
    by_time = seconds / (60.0 * budget.minutes) if budget.minutes else 0.0
    return min(max(by_steps, by_time), 1.0)


def stage_at(stages: tuple[StageSettings, ...], progress: float) -> StageSettings:
    """The stage of the curriculum at this progress; a stage ends just before its `until`."""
    return next((s for s in stages if progress < s.until), stages[-1])


def learning_rate(optim: OptimSettings, step: int, progress: float, flat: float = 0.0) -> float:
    """Linear warm-up over steps (step 0 is the first), then a cosine over the budget down to `final_lr * lr`.

    The cosine begins at progress `flat`; until then the rate stays at its peak.
    """
    warm = min(1.0, (step + 1) / optim.warmup) if optim.warmup else 1.0
    cosine = 0.5 * (1.0 + math.cos(math.pi * max(0.0, (progress - flat) / (1.0 - flat))))
    return optim.lr * warm * (optim.final_lr + (1.0 - optim.final_lr) * cosine)


def ema_decay(most: float, step: int) -> float:
    """Decay after `step` updates: follows young weights closely, `most` in the end."""
    return min(most, (1.0 + step) / (10.0 + step))


def rng(seed: int, *place: int) -> torch.Generator:
    """A CPU generator that depends on the run's seed and a place in the run (step, micro-batch, sample, ...) alone."""
    word = np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


def draw_branch(probabilities: BranchProbabilities, generator: torch.Generator) -> Branch:
    """The branch that a micro-batch trains."""
    weights = torch.tensor(probabilities.values, dtype=torch.float64)
    return BRANCHES[int(torch.multinomial(weights, 1, generator=generator))]


def stratified_normal(count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` standard normal numbers, one from each of `count` equally likely strata, in random order.

    Each is normal by itself; together they cover the distribution evenly, so that the loss of a small batch says
    less about which noise levels it happened to draw.
    """
    strata = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    return torch.special.ndtri((strata / count).clamp(1e-6, 1 - 1e-6))
