"""Tables, medians, bars and JSON of known runs."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from svdp.evaluation.report import Bar, Column, Report, Run
from svdp.evaluation.score import Score, median_score

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


def test_pairs_are_compared_with_themselves():
    """Two pairs of very different difficulty: the median of differences knows that the result is better in each."""
    own = report(*(Score.of(v) for v in (0.2, 0.4, 0.5, 0.6, 0.8, 0.9))).runs
    other = [replace(run, method="draft", scores={"yaw": Score.of(run.scores["yaw"].value - 0.1)}) for run in own]
    failed = replace(other[0], scores={"yaw": Score.missing("no face in the result", counted=0.0)})
    whole = Report(columns=COLUMNS, runs=[*own, failed, *other[1:]])
    apart = whole.difference("draft", "yaw")
    assert apart.value == pytest.approx(0.1) and (apart.low, apart.high) == pytest.approx((0.1, 0.2))
    assert "| result less draft, median of pairs | – | 0.10 [0.10, 0.20] |  |" in whole.markdown()
    assert whole.json()["baselines"]["draft"]["less"]["yaw"] == pytest.approx([0.1, 0.1, 0.2])


def test_most_is_a_bar_too():
    runs = report(Score.of(1.2), Score.of(1.4)).runs
    assert Bar(key="yaw", most=1.3).met(runs)
    assert not Bar(key="yaw", most=1.3, over="every").met(runs)
    assert str(Bar(key="yaw", least=1, most=1.3)) == "yaw, median: at least 1 and at most 1.3"
    assert not Bar(key="nothing", most=1.3).met(runs)


def grouped(*, baseline: float = 0.1) -> Report:
    """Two runs and a baseline for each, over two groups; of the columns `unasked` nobody wanted the number."""
    names = ("motion", "yaw"), ("time", "seam"), ("time", "unasked")
    columns = [Column(key=key, title=key, group=group) for group, key in names]
    why = Score.missing("one segment only")
    runs = [
        Run(name=n, scores={"yaw": Score.of(v), "seam": why}, checks={"sound": True}) for n, v in (("a", 1), ("b", 0))
    ]
    still = [Run(name=n, scores={"yaw": Score.of(baseline)}, method="static copy") for n in "ab"]
    return Report(columns=columns, runs=[*runs, *still])


def test_each_group_has_its_table_and_baselines_their_median_where_they_have_a_number():
    assert grouped().markdown().splitlines() == [
        "### motion",
        "",
        "| run | yaw | sound |",
        "| --- | ---: | ---: |",
        "| a | 1.00 | yes |",
        "| b | 0.00 | yes |",
        "| median | 0.50 | 2 of 2 |",
        "| static copy, median | 0.10 |  |",
        "| result less static copy, median of pairs | 0.40 |  |",
        "",
        "### time",
        "",
        "| run | seam |",
        "| --- | ---: |",
        "| a | – |",
        "| b | – |",
        "| median | – |",
        "",
        "- all runs: one segment only, left out of the median (seam)",
    ]


def test_baselines_stand_apart_in_json_and_do_not_count_for_bars():
    data = grouped(baseline=5.0).json()
    assert [run["name"] for run in data["runs"]] == ["a", "b"]
    assert data["median"]["yaw"] == 0.5
    assert data["baselines"]["static copy"]["median"]["yaw"] == 5
    assert not Bar(key="yaw", least=1).met(grouped(baseline=5.0).own)


def test_notes_stand_between_reasons_and_bars():
    more = replace(
        report(STILL, yaw=0.6), notes=["condition-swap gap: 0.1"], extra={"condition_swap_gaps": {"driver": 0.1}}
    )
    assert more.markdown().splitlines()[-3:] == [
        "- run0: the result holds still, counts as 0 in the median (yaw)",
        "- condition-swap gap: 0.1",
        "- yaw, median: at least 0.6 MISSED",
    ]
    assert more.json()["condition_swap_gaps"] == {"driver": 0.1}


def test_the_interval_of_the_median_is_that_of_the_sign_test():
    def ends(count: int) -> tuple[float, float]:
        score = median_score([Score.of(float(value)) for value in range(count)])
        return score.low, score.high

    assert np.isnan(ends(5)).all()
    assert ends(6) == (0, 5)  # 1 - 2 / 64 = 96.9 %
    assert ends(9) == (1, 7)  # 1 - 2 * 10 / 512 = 96.1 %
    assert ends(20) == (5, 14)  # 95.9 %


def test_json_has_null_for_missing_numbers():
    data = json.loads(json.dumps(report(STILL, Score.of(0.7), yaw=0.9).json(), allow_nan=False))
    assert data["runs"][0]["scores"]["yaw"] == {
        "value": None, "low": None, "high": None, "reason": "the result holds still", "counted": 0.0
    }  # fmt: skip
    assert data["median"] == {"faces": 1.0, "yaw": pytest.approx(0.35)}
    assert data["bars"] == [{"key": "yaw", "least": 0.9, "over": "median", "met": False}]
