"""One number of one run with its confidence interval; and the number over several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """The median over runs of what they count; nan if no run counts."""
    counted = [score.counted for score in scores if score.counted is not None]
    if not counted:
        return Score.missing("no run has this number")
    return Score.of(float(np.median(counted)))
