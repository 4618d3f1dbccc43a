"""Runs and their scores as a table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.table import Table

from .score import Score, median_score

Over = Literal["median", "every"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number in the table."""

    key: str  # of Run.scores
    title: str
    digits: int = 2
    percent: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run showed: scores, yes-or-no checks, and anything else that JSON can say of it."""

    name: str
    scores: dict[str, Score]
    checks: dict[str, bool] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The least value asked for, of the median over runs or of every run."""

    key: str
    least: float
    over: Over

    def met(self, runs: Sequence[Run]) -> bool:
        """Whether the runs reach it; a missing number does not."""
        if self.over == "median":
            return median_score(_scores(runs, self.key)).value >= self.least
        return all(score.value >= self.least for score in _scores(runs, self.key))


@dataclass(frozen=True, kw_only=True)
class Report:
    """A table of runs with the median below them."""

    columns: Sequence[Column]
    runs: Sequence[Run]
    bars: Sequence[Bar] = ()

    def rows(self, *, intervals: bool = False) -> list[list[str]]:
        """Head, one row a run, the median (of checks: how many passed); `intervals`: with 95 % intervals."""
        checks = list(dict.fromkeys(name for run in self.runs for name in run.checks))
        head = ["run", *(c.title for c in self.columns), *checks]
        body = [
            [r.name, *(_cell(r.scores.get(c.key), c, intervals) for c in self.columns), *(_tick(r, n) for n in checks)]
            for r in self.runs
        ]
        passed = [f"{sum(run.checks.get(n, False) for run in self.runs)} of {len(self.runs)}" for n in checks]
        medians = [_cell(median_score(_scores(self.runs, c.key)), c) for c in self.columns]
        return [head, *body, ["median", *medians, *passed]]

    def markdown(self) -> str:
        """The table with intervals, the reasons for missing numbers, and the bars."""
        rows = self.rows(intervals=True)
        head, *body = map(_pipes, rows)
        rule = _pipes(["---", *["---:"] * (len(rows[0]) - 1)])
        notes = [f"- {note}" for note in [*self.reasons(), *self.verdicts()]]
        return "\n".join([head, rule, *body, *(["", *notes] if notes else [])]) + "\n"

    def rich(self, title: str) -> Table:
        """The table for the terminal."""
        head, *body = self.rows()
        table = Table(title=title)
        for name in head:
            table.add_column(name, justify="left" if name == head[0] else "right")
        for row in body[:-1]:
            table.add_row(*row)
        table.add_section()
        table.add_row(*body[-1], style="bold")
        return table

    def reasons(self) -> list[str]:
        """Why numbers of the table are missing, a line for each run and reason."""
        titles: dict[tuple[str, str], list[str]] = {}
        for run in self.runs:
            for c in self.columns:
                score = run.scores.get(c.key)
                if score is not None and score.reason:
                    share = "left out of" if score.counted is None else f"counts as {score.counted:g} in"
                    titles.setdefault((run.name, f"{score.reason}, {share} the median"), []).append(c.title)
        return [f"{name}: {reason} ({', '.join(columns)})" for (name, reason), columns in titles.items()]

    def verdicts(self) -> list[str]:
        """One line for each bar."""
        return [
            f"{bar.key}, {'median' if bar.over == 'median' else 'every run'}: at least {bar.least:g} "
            f"{'met' if bar.met(self.runs) else 'MISSED'}"
            for bar in self.bars
        ]

    def json(self) -> dict[str, Any]:
        """Everything, with null where there is no number."""
        medians = {c.key: median_score(_scores(self.runs, c.key)).value for c in self.columns}
        return _plain(
            {
                "runs": [asdict(run) for run in self.runs],
                "median": medians,
                "bars": [{**asdict(bar), "met": bar.met(self.runs)} for bar in self.bars],
            }
        )


def _scores(runs: Sequence[Run], key: str) -> list[Score]:
    return [run.scores.get(key) or Score.missing("not measured") for run in runs]


def _cell(score: Score | None, column: Column, intervals: bool = False) -> str:
    if score is None or math.isnan(score.value):
        return "–"

    def number(value: float) -> str:
        return f"{100 * value if column.percent else value:.{column.digits}f}"

    known = intervals and not math.isnan(score.low)
    interval = f" [{number(score.low)}, {number(score.high)}]" if known else ""
    return number(score.value) + interval + (" %" if column.percent else "")


def _tick(run: Run, name: str) -> str:
    return "yes" if run.checks.get(name) else "NO"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
