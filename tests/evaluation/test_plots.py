"""The summary picture of a report: drawn where matplotlib is, left out with a word where it is not."""

import importlib.util
import logging
from pathlib import Path

import pytest
from svdp.evaluation.plots import draw_report
from svdp.evaluation.report import Column, Report, Run
from svdp.evaluation.score import Score
from svdp.signals.images import load_image

COLUMNS = (Column(key="yaw", title="yaw", better="more"), Column(key="tof", title="tOF", unit="px", group="truth"))
SERIES = {"change": [0.1, 0.2, 0.1], "driver yaw": [0.0, 5.0, float("nan"), 3.0], "result yaw": [1.0, 2.0, 3.0]}


@pytest.fixture
def report() -> Report:
    """Two runs, one of which lacks a number, and a baseline."""
    runs = [
        Run(name="a", scores={"yaw": Score.of(0.5, 0.2, 0.8), "tof": Score.missing("no target")}),
        Run(name="b", scores={"yaw": Score.of(0.9)}, details={"series": SERIES}),
        Run(name="a", scores={"yaw": Score.of(0.1)}, method="static copy"),
    ]
    return Report(columns=COLUMNS, runs=runs)


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="matplotlib is not installed")
def test_curves_and_summary(report: Report, tmp_path: Path):
    assert draw_report(report, tmp_path) == ["*.curves.png", "summary.png", "length.png"]
    assert {p.name for p in tmp_path.iterdir()} == {"b.curves.png", "summary.png", "length.png"}
    assert load_image(tmp_path / "summary.png").std() > 5  # something is drawn
    assert load_image(tmp_path / "length.png").std() > 5


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="matplotlib is not installed")
def test_a_report_without_any_number_can_be_drawn(tmp_path: Path):
    nothing = Report(columns=COLUMNS, runs=[Run(name="a", scores={"yaw": Score.missing("still")})])
    assert draw_report(nothing, tmp_path) == ["summary.png"]


def test_without_matplotlib_the_remedy_is_named(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert draw_report(report, tmp_path) == ["*.curves.png"]
    assert "pip install matplotlib" in caplog.text
    assert not (tmp_path / "summary.png").exists()
