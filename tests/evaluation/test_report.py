"""Tables, medians, bars and JSON of known runs."""

import io
import json

import pytest
from rich.console import Console
from svdp.evaluation.report import Bar, Column, Report, Run
from svdp.evaluation.score import Score

COLUMNS = (Column(key="faces", title="faces", percent=True, digits=0), Column(key="yaw", title="yaw"))
STILL = Score.missing("the result holds still", counted=0.0)


def report(*yaws: Score, **bars: float) -> Report:
    runs = [
        Run(name=f"run{i}", scores={"faces": Score.of(1.0), "yaw": yaw}, checks={"frames": i > 0})
        for i, yaw in enumerate(yaws)
    ]
    return Report(columns=COLUMNS, runs=runs, bars=[Bar(key=k, least=v, over="median") for k, v in bars.items()])


def test_markdown_has_rows_median_intervals_and_reasons():
    text = report(Score.of(0.9, 0.8, 0.95), STILL, Score.of(0.7), yaw=0.6).markdown()
    assert text.splitlines() == [
        "| run | faces | yaw | frames |",
        "| --- | ---: | ---: | ---: |",
        "| run0 | 100 % | 0.90 [0.80, 0.95] | NO |",
        "| run1 | 100 % | – | yes |",
        "| run2 | 100 % | 0.70 | yes |",
        "| median | 100 % | 0.70 | 2 of 3 |",
        "",
        "- run1: the result holds still, counts as 0 in the median (yaw)",
        "- yaw, median: at least 0.6 met",
    ]


def test_terminal_table_shows_the_same_numbers():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report(Score.of(0.9), Score.of(0.7)).rich("title"))
    text = console.export_text()
    assert "title" in text
    assert [text.count(word) for word in ("run0", "0.90", "0.80", "median")] == [1, 1, 1, 1]


def test_bars_are_missed_by_missing_numbers():
    reached, empty = report(Score.of(0.8), yaw=0.8), report(Score.missing("the driver holds still"), yaw=0.1)
    assert reached.verdicts() == ["yaw, median: at least 0.8 met"]
    assert empty.verdicts() == ["yaw, median: at least 0.1 MISSED"]
    every = Bar(key="yaw", least=0.5, over="every")
    assert not every.met(report(Score.of(0.9), Score.of(0.4)).runs)
    assert not every.met(report(Score.of(0.9), STILL).runs)
    assert every.met(report(Score.of(0.9), Score.of(0.5)).runs)


def test_json_has_null_for_missing_numbers():
    data = json.loads(json.dumps(report(STILL, Score.of(0.7), yaw=0.9).json(), allow_nan=False))
    assert data["runs"][0]["scores"]["yaw"] == {
        "value": None, "low": None, "high": None, "reason": "the result holds still", "counted": 0.0
    }  # fmt: skip
    assert data["median"] == {"faces": 1.0, "yaw": pytest.approx(0.35)}
    assert data["bars"] == [{"key": "yaw", "least": 0.9, "over": "median", "met": False}]
