"""How well one series follows another over time."""

from __future__ import annotations

import numpy as np

from .bootstrap import BLOCK, block_draws
from .score import Score

__all__ = ["BLOCK", "MIN_FRAMES", "block_interval", "correlate", "pearson"]

MIN_FRAMES = 8  # fewer have no correlation worth the name


def correlate(driver: np.ndarray, result: np.ndarray, valid: np.ndarray, *, floor: float = 0.0, seed: int = 0) -> Score:
    """Pearson's r in [-1, 1] of two series (T,) over the frames marked in `valid` (T,) bool.

    floor: standard deviation up to which a series counts as still, in its own unit: what the detector's noise alone
    makes. Still or too short series give nan with the reason; if it is the result that is still, the run counts as 0
    in medians. The interval is that of `block_interval`.
    """
    if not driver.shape == result.shape == valid.shape:
        raise ValueError(f"series must be of one length, got {driver.shape}, {result.shape} and {valid.shape}")
    driver, result = driver[valid].astype(np.float64), result[valid].astype(np.float64)
    if len(driver) < MIN_FRAMES:
        return Score.missing(f"only {len(driver)} frames with a face in both", counted=0.0)
    limit = max(floor, 1e-9)
    if driver.std() <= limit:
        return Score.missing("the driver holds still")
    if result.std() <= limit:
        return Score.missing("the result holds still", counted=0.0)
    return Score.of(float(pearson(driver, result)), *block_interval(driver, result, seed=seed))


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's r over the last axis; nan where a series is constant."""
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    spread = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), spread, out=np.full(spread.shape, np.nan), where=spread > 0)


def block_interval(a: np.ndarray, b: np.ndarray, *, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of Pearson's r by the moving block bootstrap, `block_draws`; (nan, nan) under two blocks."""
    frames = block_draws(len(a), draws=draws, seed=seed)
    if frames is None:
        return float("nan"), float("nan")
    low, high = np.nanpercentile(pearson(a[frames], b[frames]), [2.5, 97.5])
    return float(low), float(high)
