"""Cancel in any phase: it takes effect at once, and the next run begins with what was done."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

from .test_animate import animate, media, nothing_kept

pytestmark = pytest.mark.slow
__all__ = ["media", "nothing_kept"]  # fixtures
AT_ONCE = 5.0  # seconds on a machine that has much else to do; alone it is under one
FRAMES = 9  # two segments
DONE = ("detect_face", "track_faces", "encode_source", "sample_video")  # what a run does, in order


class Cancel:
    """Presses Cancel a moment after a phase has begun, while it works, as a user would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
        from svdp.nodes import progress

        self.pressed_at = 0.0
        show, timer = progress.StageBar.show, threading.Timer(0.05, self._press)

        def watched(bar: Any, stage: str, share: float, preview: Any = None) -> None:
            show(bar, stage, share, preview)
            if stage == phase and not timer.is_alive() and not self.pressed_at:
                self.pressed_at = time.perf_counter()
                timer.start()

        monkeypatch.setattr(progress.StageBar, "show", watched)

    def _press(self) -> None:
        import comfy.model_management as mm

        self.pressed_at = time.perf_counter()
        mm.interrupt_current_processing(True)


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """Names of what was done, as it is done."""
    from svdp.nodes import animation

    names: list[str] = []
    for name in DONE:
        was = getattr(animation, name)
        monkeypatch.setattr(animation, name, lambda *a, _n=name, _w=was, **k: (names.append(_n), _w(*a, **k))[1])
    return names


@pytest.mark.parametrize(
    ("phase", "mode", "done"),
    [
        ("track", "model", 1), ("encode", "model", 2), ("sample", "model", 3), ("write", "model", 4),
        ("track", "draft", 1), ("write", "draft", 2),
    ],
)  # fmt: skip
def test_cancel_takes_effect_at_once_and_the_next_run_goes_on(media, made, phase, mode, done, monkeypatch):
    import comfy.model_management as mm

    with monkeypatch.context() as pressed:
        cancel = Cancel(pressed, phase)
        with pytest.raises(mm.InterruptProcessingException):
            animate(*media, mode=mode, max_frames=FRAMES)
        waited = time.perf_counter() - cancel.pressed_at
    print(f"cancelled after {waited:.2f} s")
    assert waited < AT_ONCE
    assert not mm.processing_interrupted(), "raising takes the wish back"
    before, whole = list(made), [name for name in DONE if mode == "model" or name in DONE[:2]]
    assert before == whole[: done + 1][: len(before)] and len(before) >= done
    made.clear()
    images = animate(*media, mode=mode, max_frames=FRAMES)[1]
    assert len(images) == FRAMES and bool(torch.isfinite(images).all())
    kept = done if phase != "write" else len(whole)
    assert made == whole[kept:], "stages that were done are not done again"


def test_no_thread_is_left(media):
    """A thread that was at work when Cancel came ends with what it was doing."""
    from svdp.nodes.progress import THREAD

    end = time.monotonic() + 60
    while any(thread.name == THREAD for thread in threading.enumerate()) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD]


def test_a_wait_for_the_next_item_is_cut_short(comfy_on_path):
    import comfy.model_management as mm
    from svdp.nodes.progress import cancellable

    at_work = threading.Event()
    threading.Timer(0.2, lambda: mm.interrupt_current_processing(True)).start()
    began = time.perf_counter()
    with pytest.raises(mm.InterruptProcessingException):
        cancellable(lambda: at_work.wait(60))
    assert time.perf_counter() - began < AT_ONCE
    at_work.set()
