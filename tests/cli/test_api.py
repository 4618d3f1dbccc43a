"""The Python API on the bundled portrait and clip: arrays and files, quiet, in threads, told of and stopped."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import svdp
from svdp.signals.images import load_image
from svdp.signals.video import VideoReader

FRAMES, WHOLE = 6, 64  # made of the example's clip, and in it
SHORT: dict[str, Any] = {"max_frames": FRAMES, "steps": 1, "paste_back": False}


@pytest.fixture(scope="module")
def model(tiny_weights: Path) -> Any:
    """The tiny model, read once for all tests."""
    return svdp.load_model(tiny_weights, device="cpu", dtype="float32")


def test_names_are_brought_when_they_are_used() -> None:
    assert set(svdp.__all__) <= set(dir(svdp))
    assert svdp.MediaError is not None and issubclass(svdp.NoFaceError, svdp.UserError)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        svdp.nothing  # noqa: B018


def test_files_and_arrays_in_give_the_same_frames_and_nothing_is_printed(model, examples, capfd, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        from_files = svdp.animate(examples.source, str(examples.driving), model=model, **SHORT)
        reader = VideoReader(examples.driving)
        clip = list(reader)  # all of it: the first frames depend on the rest
        fps = float(reader.info.fps)
        from_arrays = svdp.animate(load_image(examples.source), clip, model=model, fps=fps, **SHORT)
    assert from_files.frames.shape == (FRAMES, 64, 64, 3) and from_files.frames.dtype == np.uint8
    assert np.array_equal(from_files.frames, from_arrays.frames)
    assert from_files.video is None and from_files.fps == from_arrays.fps == pytest.approx(fps)
    assert capfd.readouterr().out == "" and not caplog.records


def test_a_file_out_is_what_the_frames_are(model, examples, tmp_path) -> None:
    frames = svdp.animate(examples.source, examples.driving, model=model, **SHORT).frames
    made = svdp.animate(examples.source, examples.driving, tmp_path / "o.mp4", model=model, **SHORT)
    assert (made.video, made.num_frames, made.frames) == (tmp_path / "o.mp4", FRAMES, None)
    assert made.sheet == tmp_path / "o.sheet.png" and made.sheet.exists()
    written = np.stack(list(VideoReader(made.video)))
    assert np.abs(written.astype(int) - frames).mean() < 4  # what H.264 leaves
    with pytest.raises(svdp.UserError, match="exists already"):
        svdp.animate(examples.source, examples.driving, tmp_path / "o.mp4", model=model, **SHORT)


def test_a_draft_of_frames_in_memory_needs_no_model(examples) -> None:
    clip = list(islice(VideoReader(examples.driving), 3))
    made = svdp.animate(load_image(examples.source), clip, draft=True, resolution=128, max_side=400)
    assert made.frames.shape[0] == 3 and max(made.frames.shape[1:3]) == 400


def test_two_threads_with_one_model_do_not_disturb_each_other(model, examples) -> None:
    def made(seed: int) -> np.ndarray:
        return svdp.animate(examples.source, examples.driving, model=model, seed=seed, **SHORT).frames

    alone = [made(seed) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(made, (1, 2)))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not np.array_equal(*alone)


def test_progress_is_told_stage_by_stage(model, examples) -> None:
    told: list[svdp.Progress] = []
    svdp.animate(examples.source, examples.driving, model=model, on_progress=told.append, **SHORT)
    assert list(dict.fromkeys(p.stage for p in told)) == ["following the face", "animating"]
    for stage, total in (("following the face", WHOLE), ("animating", 1)):
        counted = [p for p in told if p.stage == stage]
        assert [p.done for p in counted] == sorted(p.done for p in counted)
        assert (counted[0].done, counted[-1].done, counted[-1].total) == (0, total, total)


@pytest.mark.parametrize("stage", ["following the face", "animating"])
def test_a_run_can_be_cancelled(stage, model, examples, tmp_path) -> None:
    cancel = threading.Event()

    def on_progress(progress: svdp.Progress) -> None:
        if progress.stage == stage and progress.done:
            cancel.set()

    options = {**SHORT, "steps": 3}
    with pytest.raises(svdp.Cancelled) as caught:
        svdp.animate(
            examples.source, examples.driving, tmp_path / "o.mp4", model=model, on_progress=on_progress, cancel=cancel,
            **options,
        )  # fmt: skip
    assert caught.value.kept == "nothing was written"
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_caller_s_function_ends_the_run_as_it_is(model, examples) -> None:
    def on_progress(progress: svdp.Progress) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        svdp.animate(examples.source, examples.driving, model=model, on_progress=on_progress, **SHORT)


def test_errors_are_typed_and_name_the_thing(model, examples, tmp_path) -> None:
    grey = np.full((64, 64, 3), 120, np.uint8)
    with pytest.raises(svdp.NoFaceError, match="no face found"):
        svdp.animate(grey, examples.driving, model=model, **SHORT)
    with pytest.raises(svdp.MediaError, match=r"the source must be an RGB array \(H, W, 3\) of uint8, got float64"):
        svdp.animate(grey / 255, examples.driving, model=model, **SHORT)
    with pytest.raises(svdp.MediaError, match=r"frame 1 of the driving clip has shape \(64, 48, 3\)"):
        svdp.animate(examples.source, [grey, grey[:, :48]], model=model, **SHORT)
    with pytest.raises(svdp.MediaError, match="has no frame 9 to start at"):
        svdp.animate(examples.source, [grey], model=model, start=9)
    with pytest.raises(svdp.MediaError, match="fps must be above 0"):
        svdp.animate(examples.source, [grey], model=model, fps=float("nan"))
    with pytest.raises(svdp.MediaError, match="does not exist"):
        svdp.animate(tmp_path / "no.png", examples.driving, model=model, **SHORT)
    with pytest.raises(svdp.UserError, match="steps must be a whole number from 1 to 1000"):
        svdp.animate(examples.source, examples.driving, model=model, steps=0)
    with pytest.raises(svdp.UserError, match="no setting strength; it belongs to load_model"):
        svdp.animate(examples.source, examples.driving, model=model, strength=0.5)
    with pytest.raises(svdp.UserError, match="no setting colour; known: "):
        svdp.animate(examples.source, examples.driving, model=model, colour="red")
    with pytest.raises(svdp.UserError, match="strength must be a number from 0 to 100, got nan"):
        svdp.load_model(strength=float("nan"))
