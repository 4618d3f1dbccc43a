"""Stopped drafts of the API and of lists of jobs go on to the same result, their motion edited, and in memory."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import svdp
from svdp.heads.motion_file import load_motion
from svdp.heads.pose import open_rig
from svdp.signals.video import VideoReader

WHOLE, PART = 64, 40  # frames of the example's clip, and after how many a run is stopped
DRAFT: dict[str, Any] = {"draft": True, "resolution": 128, "paste_back": False, "edit": "smile=0.4, yaw*0.5"}


def animate_until(frames: int, examples: Any, output: Path, **settings: Any) -> None:
    """A draft that is cancelled when so many frames are drawn."""
    cancel = threading.Event()

    def on_progress(progress: svdp.Progress) -> None:
        if progress.stage == "drawing" and progress.done >= frames:
            cancel.set()

    svdp.animate(examples.source, examples.driving, output, cancel=cancel, on_progress=on_progress, **DRAFT, **settings)


def test_an_edited_draft_goes_on_and_is_what_memory_holds(examples, tmp_path) -> None:
    once = svdp.animate(examples.source, examples.driving, tmp_path / "once.mp4", **DRAFT)
    saved = {"save_motion": str(tmp_path / "a.json")}
    with pytest.raises(svdp.Cancelled) as stopped:
        animate_until(PART, examples, tmp_path / "out.mp4", **saved)
    assert "--resume goes on from there" in stopped.value.kept and not (tmp_path / "a.json").exists()
    with pytest.raises(svdp.UserError, match="an earlier run stopped after"):
        svdp.animate(examples.source, examples.driving, tmp_path / "out.mp4", **DRAFT, **saved)
    with pytest.raises(svdp.UserError, match="had another edit: give the same to go on"):
        changed = {**DRAFT, "edit": "smile=0.1"}
        svdp.animate(examples.source, examples.driving, tmp_path / "out.mp4", resume=True, **changed)
    made = svdp.animate(examples.source, examples.driving, tmp_path / "out.mp4", resume=True, **DRAFT, **saved)
    for first, second in ((once.video, made.video), (once.sheet, made.sheet)):
        assert first is not None and second is not None and first.read_bytes() == second.read_bytes()
    moves = load_motion(tmp_path / "a.json", open_rig(128, 1.7)[1].names)
    assert len(moves) == WHOLE and moves.edited == ("yaw", "smile")
    in_memory = svdp.animate(examples.source, examples.driving, **DRAFT).frames
    written = np.stack(list(VideoReader(tmp_path / "out.mp4")))
    assert in_memory is not None and np.abs(written.astype(int) - in_memory).mean() < 4  # what H.264 leaves


def test_a_preview_in_memory_is_the_beginning(examples) -> None:
    whole = svdp.animate(examples.source, examples.driving, **DRAFT).frames
    preview = svdp.animate(examples.source, examples.driving, max_frames=11, **DRAFT).frames
    assert whole is not None and preview is not None and np.array_equal(preview, whole[:11])


def test_a_stopped_job_of_a_list_goes_on(svdp, examples, tmp_path, monkeypatch) -> None:
    from svdp.animation.film import Film

    jobs = tmp_path / "jobs.toml"
    jobs.write_text(
        f'[[job]]\nsource = "{examples.source}"\ndriving = "{examples.driving}"\noutput = "a.mp4"\ndraft = true\n'
        'resolution = 128\npaste_back = false\nsave_motion = "a.json"\nedit = "smile=0.4"\n'
    )
    add = Film.add

    def add_and_stop(film: Film, number: int, result: np.ndarray) -> None:
        add(film, number, result)
        if number == PART:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Film, "add", add_and_stop)
        code, said = svdp("batch", jobs)
    assert code == 130 and "the first" in said and "run again to go on" in said and "--resume" not in said
    code, said = svdp("batch", jobs)
    assert code == 0 and "goes on at frame" in said and "1 done" in said, said
    assert VideoReader(tmp_path / "a.mp4").num_frames == WHOLE and (tmp_path / "a.json").is_file()
    jobs.write_text(jobs.read_text() + 'motion_file = "a.json"\n')
    assert "is an input of one job and the output of another" in svdp("batch", jobs)[1]
    jobs.write_text(jobs.read_text().replace('save_motion = "a.json"\n', "").replace("a.mp4", "b.mp4"))
    code, said = svdp("batch", jobs)
    assert code == 0 and VideoReader(tmp_path / "b.mp4").num_frames == WHOLE
    assert "1 there already" in svdp("batch", jobs)[1]
