"""Frames as they come: from a camera, or from a file that is played as fast as it was filmed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import MediaError
from ..signals.opencv import cv2
from ..signals.video import VideoReader

CAMERA_PATIENCE = 5.0  # seconds to wait for a camera's next frame


@dataclass(frozen=True)
class Taken:
    """One frame: its number in the input, RGB (H, W, 3) uint8, and when it was to be seen (seconds of the clock)."""

    number: int
    picture: np.ndarray
    due: float


class LiveInput(Protocol):
    """Where frames come from."""

    fps: float

    def take(self) -> Taken | None:
        """The newest frame, after waiting for it if need be; None at the end. Older ones are skipped."""
        ...

    def close(self) -> None:
        """Let go of the device or the file."""
        ...


class FileInput:
    """A file played in real time: frame n is due n / fps seconds after the first `take`.

    Args:
        clock, sleep: as `time.monotonic` and `time.sleep`.
    """

    def __init__(
        self,
        path: Path,
        max_frames: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reader = VideoReader(path, max_frames=max_frames)
        self._frames = enumerate(self._reader)
        self.fps = float(self._reader.info.fps)
        self._clock, self._sleep = clock, sleep
        self._began: float | None = None

    def take(self) -> Taken | None:
        """As LiveInput: waits until the next frame is due; of several that are due, the last."""
        found = next(self._frames, None)
        if found is None:
            return None
        if self._began is None:
            self._began = self._clock() - found[0] / self.fps
        while self._due(found[0] + 1) <= self._clock():  # the one after it is due, too
            following = next(self._frames, None)
            if following is None:
                break
            found = following
        wait = self._due(found[0]) - self._clock()
        if wait > 0:
            self._sleep(wait)
        return Taken(*found, self._due(found[0]))

    def close(self) -> None:
        """Nothing is held open between frames that would have to be closed."""

    def _due(self, number: int) -> float:
        assert self._began is not None
        return self._began + number / self.fps


class CameraInput:
    """A camera, read by a thread that keeps the newest frame alone.

    Args:
        camera: an open capture; it is released here.
        mirror: turn right and left.
    """

    def __init__(self, camera: cv2.VideoCapture, mirror: bool, max_frames: int | None = None) -> None:
        self._camera = camera
        self.fps = float(self._camera.get(cv2.CAP_PROP_FPS)) or 30.0
        self._mirror, self._max = mirror, max_frames
        self._news, self._latest, self._given = threading.Condition(), None, -1
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def take(self) -> Taken | None:
        """As LiveInput; a camera that gives nothing for CAMERA_PATIENCE has ended."""
        with self._news:
            self._news.wait_for(lambda: self._ended or self._fresh, CAMERA_PATIENCE)
            if self._latest is None or not self._fresh:
                return None
            self._given = self._latest.number
            return self._latest

    def close(self) -> None:
        """Stop the thread and free the camera."""
        self._ended = True
        self._thread.join(CAMERA_PATIENCE)
        self._camera.release()

    @property
    def _fresh(self) -> bool:
        """Whether the newest frame was not given yet."""
        return self._latest is not None and self._latest.number > self._given

    def _read(self) -> None:
        number = 0
        while not self._ended and (self._max is None or number < self._max):
            there, frame = self._camera.read()
            if not there:
                break
            picture = cv2.cvtColor(frame[:, ::-1] if self._mirror else frame, cv2.COLOR_BGR2RGB)
            with self._news:
                self._latest = Taken(number, picture, time.monotonic())
                self._news.notify_all()
            number += 1
        with self._news:
            self._ended = True
            self._news.notify_all()


def open_input(name: str, mirror: bool, max_frames: int | None) -> LiveInput:
    """A camera by its number, else a file. Raises MediaError."""
    if not name.isdecimal():
        return FileInput(Path(name), max_frames)
    camera = cv2.VideoCapture(int(name))
    if not camera.isOpened():
        camera.release()
        raise MediaError(f"camera {name} cannot be opened: is it plugged in, allowed, and used by nothing else?")
    return CameraInput(camera, mirror, max_frames)
