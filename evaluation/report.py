"""Runs and their scores as tables for the terminal, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.console import Group
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
    group: str = ""  # columns of a group stand in one table, under this heading
    unit: str = ""
    better: Literal["more", "less", ""] = ""
    about: str = ""  # definition and source, for JSON


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run showed: scores, yes-or-no checks, and anything else that JSON can say of it.

    method: empty for what is evaluated, else the name of a baseline on the same pair.
    """

    name: str
    scores: dict[str, Score]
    checks: dict[str, bool] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    method: str = ""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The least, or the most, value asked for, of the median over runs or of every run."""

    key: str
    least: float | None = None
    most: float | None = None
    over: Over = "median"

    def met(self, runs: Sequence[Run]) -> bool:
        """Whether the runs reach it; a missing number does not."""
        scores = _scores(runs, self.key)
        values = [median_score(scores).value] if self.over == "median" else [score.value for score in scores]
        return all(self._holds(value) for value in values)

    def _holds(self, value: float) -> bool:
        above = self.least is None or value >= self.least
        return above and (self.most is None or value <= self.most) and not math.isnan(value)

    def __str__(self) -> str:
        limits = [f"{word} {n:g}" for word, n in (("at least", self.least), ("at most", self.most)) if n is not None]
        return f"{self.key}, {'median' if self.over == 'median' else 'every run'}: {' and '.join(limits)}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Tables of runs with the medians below them, of what is evaluated and of the baselines; a table for each group."""

    columns: Sequence[Column]
    runs: Sequence[Run]
    bars: Sequence[Bar] = ()
    notes: Sequence[str] = ()  # more to say below the tables
    extra: Mapping[str, Any] = field(default_factory=dict)  # more to say in JSON

    @property
    def own(self) -> list[Run]:
        """The runs that are evaluated."""
        return [run for run in self.runs if not run.method]

    @property
    def baselines(self) -> dict[str, list[Run]]:
        """The other runs by method."""
        methods = dict.fromkeys(run.method for run in self.runs if run.method)
        return {method: [run for run in self.runs if run.method == method] for method in methods}

    @property
    def groups(self) -> dict[str, list[Column]]:
        """The columns by heading; those that no run was asked for are left out."""
        asked = {key for run in self.own for key in run.scores}
        shown = [column for column in self.columns if column.key in asked]
        return {name: [c for c in shown if c.group == name] for name in dict.fromkeys(c.group for c in shown)}

    def rows(self, columns: Sequence[Column], *, checks: bool = True, intervals: bool = False) -> list[list[str]]:
        """Head, one row a run, the medians, of checks how many passed; `intervals`: with 95 % intervals."""
        names = list(dict.fromkeys(name for run in self.own for name in run.checks)) if checks else []
        head = ["run", *(_title(c) for c in columns), *names]
        body = [
            [run.name, *(_cell(run.scores.get(c.key), c, intervals) for c in columns), *(_tick(run, n) for n in names)]
            for run in self.own
        ]
        passed = [f"{sum(run.checks.get(n, False) for run in self.own)} of {len(self.own)}" for n in names]
        medians = [_medians("median", self.own, columns, intervals) + passed]
        for method, runs in self.baselines.items():
            if not any(c.key in run.scores for run in runs for c in columns):
                continue
            name = f"{method}, median" if len(runs) > 1 else method
            medians.append(_medians(name, runs, columns, intervals) + [""] * len(names))
            if len(runs) > 1:
                apart = [self.difference(method, c.key) for c in columns]
                cells = [_cell(score, c, intervals) for score, c in zip(apart, columns, strict=True)]
                medians.append([f"result less {method}, median of pairs", *cells, *[""] * len(names)])
        return [head, *body, *medians]

    def difference(self, method: str, key: str) -> Score:
        """The median over pairs of the result's number less the baseline's, with its 95 % interval.

        A pair counts where both have the number, or failed; so what is hard in a pair is hard for both.
        """
        theirs = {run.name: run.scores.get(key) for run in self.baselines[method]}
        both = [(run.scores.get(key), theirs.get(run.name)) for run in self.own]
        counted = [(a.counted, b.counted) for a, b in both if a is not None and b is not None]
        return median_score(
            [Score.of(a - b) for a, b in counted if a is not None and b is not None and math.isfinite(a - b)]
        )

    def markdown(self) -> str:
        """The tables with intervals, the reasons for missing numbers, and the bars."""
        lines: list[str] = []
        for number, (group, columns) in enumerate(self.groups.items()):
            rows = self.rows(columns, checks=not number, intervals=True)
            head, *body = map(_pipes, rows)
            rule = _pipes(["---", *["---:"] * (len(rows[0]) - 1)])
            lines += [*([""] if number else []), *([f"### {group}", ""] if group else []), head, rule, *body]
        notes = [f"- {note}" for note in self.remarks()]
        return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"

    def rich(self, title: str) -> Group:
        """The tables for the terminal."""
        return Group(
            *(
                self._rich_table(f"{title}: {group}" if group else title, columns, checks=not number)
                for number, (group, columns) in enumerate(self.groups.items())
            )
        )

    def _rich_table(self, title: str, columns: Sequence[Column], checks: bool) -> Table:
        head, *body = self.rows(columns, checks=checks)
        table = Table(title=title)
        for number, name in enumerate(head):
            table.add_column(name, justify="right" if number else "left")
        for number, row in enumerate(body):
            if number == len(self.own):
                table.add_section()
            table.add_row(*row, style="bold" if number == len(self.own) else None)
        return table

    def reasons(self) -> list[str]:
        """Why numbers of the table are missing: a line for each reason and the runs and columns that it concerns."""
        places: dict[str, dict[str, list[str]]] = {}
        for run in self.own:
            for c in self.columns:
                score = run.scores.get(c.key)
                if score is not None and score.reason:
                    share = "left out of" if score.counted is None else f"counts as {score.counted:g} in"
                    by_run = places.setdefault(f"{score.reason}, {share} the median", {})
                    by_run.setdefault(run.name, []).append(c.title)
        lines: list[str] = []
        for reason, by_run in places.items():
            same = {tuple(titles) for titles in by_run.values()}
            if len(same) == 1 and len(by_run) == len(self.own) > 1:
                by_run = {"all runs": list(same.pop())}
            lines += [f"{name}: {reason} ({', '.join(titles)})" for name, titles in by_run.items()]
        return lines

    def remarks(self) -> list[str]:
        """All that is said below the tables: reasons, notes, bars."""
        return [*self.reasons(), *self.notes, *self.verdicts()]

    def verdicts(self) -> list[str]:
        """One line for each bar."""
        return [f"{bar} {'met' if bar.met(self.own) else 'MISSED'}" for bar in self.bars]

    def json(self) -> dict[str, Any]:
        """Everything, with null where there is no number."""
        own = {c.key: median_score(_scores(self.own, c.key)) for c in self.columns}
        return _plain(
            {
                **self.extra,
                "columns": [asdict(column) for column in self.columns],
                "runs": [asdict(run) for run in self.own],
                "median": {key: score.value for key, score in own.items()},
                "median_interval": {key: [score.low, score.high] for key, score in own.items()},
                "baselines": {
                    method: {
                        "runs": [asdict(run) for run in runs],
                        "median": {c.key: median_score(_scores(runs, c.key)).value for c in self.columns},
                        "less": {c.key: _ends(self.difference(method, c.key)) for c in self.columns},
                    }
                    for method, runs in self.baselines.items()
                },
                "bars": [
                    {**{k: v for k, v in asdict(bar).items() if v is not None}, "met": bar.met(self.own)}
                    for bar in self.bars
                ],
            }
        )


def _scores(runs: Sequence[Run], key: str) -> list[Score]:
    return [run.scores.get(key) or Score.missing("not measured") for run in runs]


def _ends(score: Score) -> list[float]:
    return [score.value, score.low, score.high]


def _medians(name: str, runs: Sequence[Run], columns: Sequence[Column], intervals: bool) -> list[str]:
    return [name, *(_cell(median_score(_scores(runs, c.key)), c, intervals) for c in columns)]


def _title(column: Column) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


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
