"""A report as pictures: curves of every run, all numbers of all runs at a glance, and what is left over the length."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MediaError
from ..signals.images import save_image
from .curves import draw_curves
from .report import Column, Report
from .score import median_score

PANELS_IN_ROW = 4
LENGTH = (("csim_source", "CSIM to the source"), ("change", "change from frame to frame: mean absolute difference"))
EXTRA = "pip install matplotlib"

log = logging.getLogger(__name__)


def draw_report(report: Report, out: Path) -> list[str]:
    """Write NAME.curves.png for every run and, with matplotlib, summary.png and length.png; returns the names.

    Without matplotlib these two are left out, which is said. Raises MediaError if the folder cannot be written.
    """
    curves = {run.name: run.details["series"] for run in report.own if "series" in run.details}
    for name, series in curves.items():
        save_image(out / f"{name}.curves.png", draw_curves(series))
    names = ["*.curves.png"] if curves else []
    if importlib.util.find_spec("matplotlib") is None:
        log.warning("no summary.png and length.png without matplotlib: %s", EXTRA)
        return names
    draw_summary(report, out / "summary.png")
    if not curves:
        return [*names, "summary.png"]
    draw_length(curves, out / "length.png")
    return [*names, "summary.png", "length.png"]


def draw_summary(report: Report, path: Path) -> None:
    """One panel a number: a dot with its interval for each run, a line at the median, dashed ones at the baselines'."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    columns = [c for group in report.groups.values() for c in group if _values(report, c)]
    rows = max(1, math.ceil(len(columns) / PANELS_IN_ROW))
    figure = Figure(figsize=(3.2 * PANELS_IN_ROW, 1 + rows * (1.1 + 0.16 * len(report.own))), layout="constrained")
    panels = figure.subplots(rows, PANELS_IN_ROW, squeeze=False).flat
    for panel, column in zip(panels, columns, strict=False):
        _draw_panel(panel, report, column)
    for panel in list(figure.axes)[len(columns) :]:
        panel.remove()
    entries = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if entries:
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=5)
    _save(figure, path)


def draw_length(curves: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Likeness to the source and change from frame to frame over the length of every run: drift and seams."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    for panel, (key, title) in zip(figure.subplots(2, 1, sharex=True), LENGTH, strict=True):
        for name, series in curves.items():
            known = [(t, value) for t, value in enumerate(series.get(key, ())) if math.isfinite(value)]
            if known:
                panel.plot(*zip(*known, strict=True), linewidth=1, marker=".", markersize=3, label=name)
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=7)
    figure.axes[-1].set_xlabel("frame", fontsize=8)
    figure.legend(*figure.axes[-1].get_legend_handles_labels(), loc="outside right upper", fontsize=6)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise MediaError(f"cannot write {path} ({error.strerror}): choose another folder with --out") from error


def _values(report: Report, column: Column) -> list[float]:
    scores = [run.scores.get(column.key) for run in report.own]
    return [score.value for score in scores if score is not None and math.isfinite(score.value)]


def _draw_panel(panel: Any, report: Report, column: Column) -> None:
    for place, run in enumerate(report.own):
        score = run.scores.get(column.key)
        if score is None or not math.isfinite(score.value):
            continue
        if not math.isnan(score.low):
            panel.plot([score.low, score.high], [place, place], color="tab:blue", linewidth=1)
        panel.plot([score.value], [place], "o", color="tab:blue", markersize=4, label="run" if not place else None)
    median = median_score([run.scores[column.key] for run in report.own if column.key in run.scores]).value
    if math.isfinite(median):
        panel.axvline(median, color="tab:blue", linewidth=1, alpha=0.5, label="median")
    for number, (method, runs) in enumerate(report.baselines.items()):
        value = median_score([run.scores[column.key] for run in runs if column.key in run.scores]).value
        if math.isfinite(value):
            panel.axvline(value, color=f"C{number + 1}", linestyle="--", linewidth=1, label=method)
    arrow = {"more": " (more is better)", "less": " (less is better)"}.get(column.better, "")
    name = f"{column.group.split(':')[-1].strip()}: {column.title}" if column.group else column.title
    panel.set_title(name + (f", {column.unit}" if column.unit else "") + "\n" + arrow.strip(), fontsize=8)
    panel.set_yticks(range(len(report.own)), [run.name for run in report.own], fontsize=6)
    panel.tick_params(axis="x", labelsize=7)
    panel.set_ylim(len(report.own) - 0.5, -0.5)
