"""Means of what is measured frame by frame, with intervals that know that neighbouring frames are alike."""

from __future__ import annotations

import numpy as np

from .score import Score

BLOCK = 12  # frames of a bootstrap block: about half a second, longer than neighbouring frames resemble each other
DRAWS = 1000


def block_draws(length: int, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray | None:
    """(draws, length) frame numbers of the moving block bootstrap (Künsch, Annals of Statistics 17(3), 1989).

    Blocks of BLOCK neighbouring frames are drawn with replacement; None for series under two blocks.
    """
    if length < 2 * BLOCK:
        return None
    starts = np.random.default_rng(seed).integers(0, length - BLOCK + 1, (draws, -(-length // BLOCK)))
    return (starts[..., None] + np.arange(BLOCK)).reshape(draws, -1)[:, :length]


def mean_score(values: np.ndarray, reason: str = "no frame could be measured", counted: float | None = None) -> Score:
    """The mean of the finite values of a series (T,) with its 95 % interval.

    Without a finite value the score is missing for `reason`, and medians take `counted`.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return Score.missing(reason, counted)
    frames = block_draws(len(values))
    if frames is None:
        return Score.of(float(values.mean()))
    low, high = np.percentile(values[frames].mean(1), [2.5, 97.5])
    return Score.of(float(values.mean()), float(low), float(high))
