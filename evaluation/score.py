"""One number of one run with its confidence interval; and the number over several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A measured value, or nan with the reason why there is none.

    low, high: 95 % confidence interval, nan where none is known.
    counted: what a median over runs takes; None leaves the run out. A result that failed counts as the worst value,
    a run that had nothing to measure is left out, so that failing can never raise a median.
    """

    value: float
    low: float = NAN
    high: float = NAN
    reason: str = ""
    counted: float | None = None

    def __post_init__(self) -> None:
        if np.isnan(self.value) != bool(self.reason):
            raise ValueError(f"a score is a number, or nan with a reason; got {self.value} and {self.reason!r}")

    @classmethod
    def of(cls, value: float, low: float = NAN, high: float = NAN) -> Score:
        """A value that was measured."""
        return cls(value=value, low=low, high=high, counted=value)

    @classmethod
    def missing(cls, reason: str, counted: float | None = None) -> Score:
        """No value, and why."""
        return cls(value=NAN, reason=reason, counted=counted)


def median_score(scores: Sequence[Score]) -> Score:
    """The median over runs of what they count, with its 95 % interval; nan if no run counts.

    The interval lies between two of the sorted values, which holds whatever their distribution (the sign test turned
    round: the number of values below the true median is binomial); six runs are the fewest that have one.
    """
    counted = sorted(score.counted for score in scores if score.counted is not None)
    if not counted:
        return Score.missing("no run has this number")
    rank = _outer_rank(len(counted))
    ends = (counted[rank], counted[-1 - rank]) if rank is not None else (NAN, NAN)
    return Score.of(float(np.median(counted)), *ends)


def _outer_rank(num: int) -> int | None:
    """The largest k with P(Binomial(num, 1/2) <= k) <= 2.5 %; None if there is none."""
    below, rank = 0.0, None
    for k in range(num):
        below += comb(num, k) / 2**num
        if below > 0.025:
            break
        rank = k
    return rank
