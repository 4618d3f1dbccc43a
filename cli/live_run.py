"""A run of `svdp live`: one thread looks at the driver, another draws the portrait; what comes too late is skipped."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from rich.markup import escape

from ..animation.config import MOTIONS
from ..animation.driver import DRAFT_SCALE
from ..animation.output import OutputFile, settling
from ..errors import NoFaceError, UserError
from ..heads.controls import parse_edits
from ..heads.doubts import look_for_doubts, warn
from ..heads.face_motion import FaceMotion, edit, joined, still
from ..heads.live import LiveDriver, with_strength
from ..heads.pose import PosedPortrait
from ..signals.detector import Detection, overlap
from ..signals.images import load_image
from ..signals.opencv import cv2
from ..signals.track import FaceFinder, detect_face, link_faces
from ..signals.video import Timing, VideoWriter
from .app import console, print_path
from .interrupt import Interrupted, StopRequest
from .live_input import LiveInput, Taken, open_input

WINDOW = "svdp live"
NO_WINDOW = "no window can be opened here: write to a file with -o"
MOST_FRAMES = 400_000  # of a file: nearly four hours
STEP, MOST = 0.1, 3.0  # by which a key changes the strength, and how strong it gets
SAME_FACE = 0.2  # overlap from which a face is the one of the frame before
RECENT = 30  # frames over which rate and delay are shown
WAITING, SOON = 0.5, 0.02  # seconds between looks at the keys while no frame comes, and once none will


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """One portrait, one camera or file, a window or a file."""

    source: Path
    input: str = "0"
    output: Path | None = None
    size: int = 256
    strength: float = 1.0
    motion: str = "relative"
    edit: str = ""
    mirror: bool = True
    crop_scale: float | None = None
    source_face: str = "largest"
    max_frames: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if any(change.held is not None for change in parse_edits(self.edit)):
            raise UserError("a live motion has no frame to hold: leave @ out, or use a strength of 0")
        if self.motion not in MOTIONS:
            raise UserError(f"unknown motion {self.motion!r}: choose among {', '.join(MOTIONS)}")
        if self.crop_scale is not None and not 1.0 <= self.crop_scale <= 4.0:
            raise UserError(f"--crop-scale must be between 1 (the face alone) and 4, got {self.crop_scale}")


@dataclass(frozen=True)
class Moved:
    """What the driver does in one frame; `motion` is None where no face was seen."""

    taken: Taken
    motion: FaceMotion | None


@dataclass
class Told:
    """What is counted of a run."""

    shown: int = 0
    last: int = -1  # number of the last frame shown
    began: float | None = None
    delays: float = 0.0
    worst: float = 0.0

    def add(self, taken: Taken, now: float) -> float:
        """One more picture is ready; its delay in seconds."""
        delay = now - taken.due
        self.began = now if self.began is None else self.began
        self.shown, self.last = self.shown + 1, taken.number
        self.delays, self.worst = self.delays + delay, max(self.worst, delay)
        return delay

    def text(self, now: float) -> str:
        """In words."""
        if not self.shown or self.began is None:
            return "no frame was shown"
        rate = (self.shown - 1) / max(now - self.began, 1e-6)
        skipped = 100 * (1 - self.shown / (self.last + 1))
        delay = 1000 * self.delays / self.shown
        return (
            f"{self.shown} of {self.last + 1} frames shown ({skipped:.0f} % skipped), {rate:.1f} frames/s, "
            f"delay {delay:.0f} ms, at most {1000 * self.worst:.0f}"
        )


class Screen(Protocol):
    """Where pictures go."""

    def show(self, moved: Moved, picture: np.ndarray, line: str) -> None:
        """One picture (size, size, 3) RGB uint8 and a line about it."""
        ...

    def key(self) -> str:
        """The key pressed since the last call, "" for none."""
        ...

    def close(self) -> None:
        """No more pictures."""
        ...


def run(cfg: LiveConfig) -> int:
    """Play until the input ends, a key or Ctrl-C; returns the exit code. Raises UserError."""
    if cfg.output is None:
        check_display()
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))  # a core is for finding the face
    inputs = (cfg.source,) if cfg.input.isdecimal() else (cfg.source, Path(cfg.input))
    output = None
    if cfg.output is not None:
        output = OutputFile(cfg.output, overwrite=cfg.overwrite, resume=None, sheet=False, inputs=inputs)
    try:
        with settling(output):
            told = _play(cfg, output)
            if output is not None:
                output.commit()
    except Interrupted as interrupted:
        if output is not None:
            console.print(f"[yellow]{interrupted}:[/] {escape(interrupted.kept)}", soft_wrap=True)
        return interrupted.exit_code
    if cfg.output is not None:
        print_path(cfg.output)
    console.print(told, soft_wrap=True)
    return 0


def _play(cfg: LiveConfig, output: OutputFile | None) -> str:
    """Until the input ends or a key ends it; what happened in words."""
    head = _portrait(cfg)
    source = open_input(cfg.input, cfg.mirror, cfg.max_frames)
    try:
        with StopRequest() as stop:
            screen = _Window() if output is None else _File(output, source.fps, cfg.size)
            try:
                return Stage(cfg, head, source, screen).play(stop)
            finally:
                screen.close()
    finally:
        source.close()


def _portrait(cfg: LiveConfig) -> PosedPortrait:
    picture = load_image(cfg.source)
    try:
        face = detect_face(picture, select=cfg.source_face)
    except NoFaceError as error:
        raise NoFaceError(f"source {cfg.source}: {error}") from error
    head = PosedPortrait(picture, face, cfg.size, cfg.crop_scale or DRAFT_SCALE)
    warn(look_for_doubts(picture, face, head.subject.place.fit))
    return head


class Stage:
    """The portrait, moved by an input, shown on a screen."""

    def __init__(self, cfg: LiveConfig, head: PosedPortrait, source: LiveInput, screen: Screen) -> None:
        self.head, self.screen = head, screen
        self.strength, self.edits = cfg.strength, parse_edits(cfg.edit)
        self.mode: Literal["absolute", "relative"] = "absolute" if cfg.motion == "absolute" else "relative"
        self.neutral: FaceMotion | None = None
        self.watcher = _Watcher(source, LiveDriver(head.basis, cfg.size, cfg.crop_scale or DRAFT_SCALE, source.fps))
        self.told = Told()
        self._times: deque[float] = deque(maxlen=RECENT)
        self._rest = head.draw_one(head.lay(edit(still(head.basis.names), self.edits)), 0).picture

    def play(self, stop: StopRequest) -> str:
        """Until the input ends or a key ends it; what happened in words."""
        self.watcher.start()
        try:
            while True:
                stop.check()
                moved = self.watcher.newest(WAITING)
                if moved is not None:
                    self._show(moved)
                elif self.watcher.finished:
                    break
                if not self._obey(self.screen.key()):
                    break
        finally:
            self.watcher.stop()
        return self.told.text(time.monotonic())

    def picture(self, motion: FaceMotion | None) -> np.ndarray:
        """(size, size, 3) uint8 of the portrait making a frame of motion; None: at rest."""
        if motion is None:
            return self._rest
        if self.neutral is None:
            self.neutral = motion
        pair = edit(joined([self.neutral, motion]), self.edits)
        laid = self.head.lay(with_strength(pair, self.strength), self.mode)
        return self.head.draw_one(laid, 1).picture

    def _show(self, moved: Moved) -> None:
        made = self.picture(moved.motion)
        now = time.monotonic()
        delay = self.told.add(moved.taken, now)
        self._times.append(now)
        rate = (len(self._times) - 1) / max(now - self._times[0], 1e-6)
        skipped = 100 * (1 - self.told.shown / (self.told.last + 1))
        line = (
            f"{rate:.1f} frames/s  delay {1000 * delay:.0f} ms  skipped {skipped:.0f} %  strength {self.strength:.1f}"
        )
        self.screen.show(moved, made, line if moved.motion is not None else f"{line}  no face")

    def _obey(self, key: str) -> bool:
        """Whether to go on."""
        if key in ("+", "=", "-"):
            self.strength = float(np.clip(self.strength + (STEP if key != "-" else -STEP), 0, MOST))
        elif key == "n":
            self.neutral = None
        elif key == "a":
            self.mode = "absolute" if self.mode == "relative" else "relative"
        elif key == "r":
            self.neutral = None
            self.watcher.another()
        return key not in ("q", "\x1b")


class _Watcher:
    """A thread that finds the face in the newest frame; of what it found, only the newest is kept."""

    def __init__(self, source: LiveInput, driver: LiveDriver) -> None:
        self._source, self._driver = source, driver
        self._found: queue.Queue[Moved] = queue.Queue(1)
        self._end, self._other = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._work: Future[None] | None = None

    def start(self) -> None:
        """Begin to take frames."""
        self._work = self._pool.submit(self._run)

    def newest(self, seconds: float) -> Moved | None:
        """What was found last and not given yet; None if nothing came for so long or the input ended."""
        try:
            return self._found.get(timeout=SOON if self._done else seconds)
        except queue.Empty:
            return None

    @property
    def finished(self) -> bool:
        """Whether nothing will come any more."""
        return self._done and self._found.empty()

    @property
    def _done(self) -> bool:
        return self._work is not None and self._work.done()

    def another(self) -> None:
        """The driver is another person from now on."""
        self._other.set()

    def stop(self) -> None:
        """End the thread. Raises what it failed with."""
        self._end.set()
        self._pool.shutdown()
        if self._work is not None:
            self._work.result()

    def _run(self) -> None:
        with FaceFinder("video") as detector:
            self._watch(detector)

    def _watch(self, detector: FaceFinder) -> None:
        before, last = None, 0.0
        while not self._end.is_set():
            taken = self._source.take()
            if taken is None:
                return
            if self._other.is_set():
                self._other.clear()
                self._driver.restart()
                before = None
            faces = detector.detect(taken.picture, round(1000 * taken.due))
            before = _same(faces, before)
            motion = None
            if before is not None:
                track = link_faces([[before]], taken.picture.shape[:2], self._source.fps, smoothing=None)
                motion, last = self._driver.move(track, taken.due - last if last else 1 / self._source.fps), taken.due
            self._put(Moved(taken, motion))

    def _put(self, moved: Moved) -> None:
        while True:
            try:
                self._found.put_nowait(moved)
                return
            except queue.Full:
                with suppress(queue.Empty):
                    self._found.get_nowait()


def _same(faces: list[Detection], before: Detection | None) -> Detection | None:
    """The face of the frame before, else the largest."""
    if before is not None:
        alike = [face for face in faces if overlap(face.box, before.box) > SAME_FACE]
        if alike:
            return max(alike, key=lambda face: overlap(face.box, before.box))
    return faces[0] if faces else None


def check_display() -> None:
    """Raise UserError where there is no display: OpenCV's windows would end the whole process, without an error."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        raise UserError(f"{NO_WINDOW}, or set DISPLAY")


class _Window:
    """A window of OpenCV's. Raises UserError where there is no screen."""

    def __init__(self) -> None:
        try:
            cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise UserError(f"{NO_WINDOW}, or install opencv-python in place of its headless kin") from error
        self._key = ""

    def show(self, moved: Moved, picture: np.ndarray, line: str) -> None:
        """As Screen."""
        shown = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        shown = cv2.resize(shown, None, fx=2, fy=2) if len(shown) < 400 else shown
        for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(shown, line, (8, len(shown) - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, thick, cv2.LINE_AA)
        cv2.imshow(WINDOW, shown)

    def key(self) -> str:
        """As Screen; a closed window counts as q."""
        pressed = cv2.waitKey(1)
        if cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) < 1:
            return "q"
        return chr(pressed & 0xFF) if pressed > 0 else ""

    def close(self) -> None:
        """As Screen."""
        cv2.destroyWindow(WINDOW)


class _File:
    """A video at the input's frame rate: a skipped frame shows the picture before it."""

    def __init__(self, output: OutputFile, fps: float, size: int) -> None:
        self._rate = Fraction(fps).limit_denominator(1001)
        self._output, self._size = output, size
        self._writer: VideoWriter | None = None
        self._written = 0
        self._last: np.ndarray | None = None

    def show(self, moved: Moved, picture: np.ndarray, line: str) -> None:
        """As Screen."""
        if self._writer is None:
            self._output.started = True
            self._writer = VideoWriter(self._output.video, (self._size, self._size), endless(self._rate))
        before = picture if self._last is None else self._last
        for _ in range(moved.taken.number - self._written):
            self._writer.write(before)
        self._writer.write(picture)
        self._written, self._last = moved.taken.number + 1, picture

    def key(self) -> str:
        """As Screen: a file has no keys."""
        return ""

    def close(self) -> None:
        """As Screen."""
        if self._writer is not None:
            self._writer.close()


def endless(fps: Fraction, frames: int = MOST_FRAMES) -> Timing:
    """Times of frames of which nobody knows how many will come."""
    return Timing(
        num_frames=frames, fps=fps, constant=True, begin=Fraction(0), ticks=tuple(range(frames)), time_base=1 / fps
    )
