"""`svdp evaluate` from end to end with a tiny real model: tables and files, keeping videos, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from svdp.cli.app import run
from svdp.signals.video import VideoReader


@pytest.fixture
def pairs(assets_dir: Path, tmp_path: Path) -> Path:
    """One pair of the bundled example media: six frames."""
    path = tmp_path / "pairs.toml"
    path.write_text(f"""
        root = "{(assets_dir / "examples").as_posix()}"
        [least.every]
        faces = 0.95
        [[pair]]
        name = "one"
        source = "source.jpg"
        driving = "driving.mp4"
        start = 2
        max_frames = 6
    """)
    return path


@pytest.fixture
def evaluate(tiny_weights: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable:
    """evaluate(*options): exit code, standard output and standard error."""

    def call(*options: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as exit_:
            run(["evaluate", str(pairs), "--out", str(tmp_path / "out"), "--weights", str(tiny_weights), *options])
        return exit_.value.code, *capsys.readouterr()

    return call


def test_table_json_video_and_sheet(evaluate, tmp_path: Path):
    code, table, said = evaluate("--keep-crop")
    assert code == 0, said
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {"one.mp4", "one.sheet.png", "made.json", "table.md", "results.json"}
    assert VideoReader(out / "one.mp4").num_frames == 6
    assert (out / "table.md").read_text() in table
    assert "| one |" in table and "| median |" in table
    results = json.loads((out / "results.json").read_text())
    (found,) = results["runs"]
    assert found["checks"] == {"frames": True, "sound": True}
    assert found["details"]["driver_frames"] == found["details"]["result_frames"] == 6
    assert found["scores"]["yaw"]["value"] is None and found["scores"]["yaw"]["reason"]  # six frames are too few
    assert results["bars"][0]["met"] == (found["scores"]["faces"]["value"] >= 0.95)


def test_videos_are_kept_only_if_asked_and_if_they_fit(evaluate, tmp_path: Path):
    video = tmp_path / "out" / "one.mp4"
    assert evaluate()[0] == 0
    first = video.stat().st_mtime_ns
    code, _, said = evaluate()
    assert code == 2 and "--reuse" in said
    assert evaluate("--reuse")[0] == 0
    assert video.stat().st_mtime_ns == first
    assert evaluate("--reuse", "--seed", "1")[0] == 0
    second = video.stat().st_mtime_ns
    assert second > first
    assert evaluate("--overwrite", "--seed", "1")[0] == 0
    assert video.stat().st_mtime_ns > second


def test_mistakes_in_the_list_stop_before_any_work(evaluate, pairs: Path, tmp_path: Path):
    pairs.write_text(pairs.read_text().replace("source.jpg", "nobody.jpg"))
    code, _, said = evaluate()
    assert code == 2
    assert "nobody.jpg does not exist" in said
    assert not (tmp_path / "out").exists()
