"""A driving clip as nodes get it: a VIDEO or an IMAGE batch, read frame by frame, again and again."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ..errors import UserError
from ..model.backends.comfy_store import digest, file_stamp
from ..signals.video import Timing, VideoReader, steady_timing
from .media import frames_of, video_file


class Clip(Protocol):
    """What an animation needs of its driver. `path`: a file with its sound, or None; `key` names the content."""

    path: Path | None
    key: str

    def __iter__(self) -> Iterator[np.ndarray]: ...

    @property
    def fps(self) -> float: ...

    @property
    def declared_frames(self) -> int: ...

    @property
    def timing(self) -> Timing: ...

    @property
    def problems(self) -> list[str]: ...


class VideoClip:
    """A VIDEO; frames are decoded when they are asked for and not kept."""

    def __init__(self, video: Any, max_frames: int | None) -> None:
        self.path: Path | None
        file, lasting = video_file(video)
        self.path = file
        self.key = digest((file_stamp(file) if lasting else file.read_bytes(), max_frames))
        self._reader, self._max_frames = VideoReader(file, max_frames=max_frames), max_frames

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._reader)

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self._reader.info.fps)

    @property
    def declared_frames(self) -> int:
        """Number of frames as the file says; 0: unknown."""
        declared = self._reader.info.declared_frames
        return min(declared, self._max_frames) if self._max_frames else declared

    @property
    def timing(self) -> Timing:
        """Times of the frames."""
        return self._reader.timing

    @property
    def problems(self) -> list[str]:
        """What was wrong with the file, in words."""
        return self._reader.problems


class ImageClip:
    """An IMAGE batch (N, H, W, C) at an even beat of `fps`, without sound. Raises UserError if it is one picture."""

    path: Path | None = None

    def __init__(self, images: Tensor, fps: float, max_frames: int | None) -> None:
        if len(images) < 2:
            raise UserError("the driver is one picture: connect a video, or its frames in order")
        self._images, self._fps = images[:max_frames], Fraction(fps).limit_denominator(1001)
        self.key = digest((self._images, fps))

    def __iter__(self) -> Iterator[np.ndarray]:
        return frames_of(self._images)

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self._fps)

    @property
    def declared_frames(self) -> int:
        """Number of frames."""
        return len(self._images)

    @property
    def timing(self) -> Timing:
        """Times of the frames."""
        return steady_timing(len(self._images), self._fps)

    @property
    def problems(self) -> list[str]:
        """None."""
        return []


def open_clip(driving: Any, fps: float = 25.0, max_frames: int = 0) -> Clip:
    """The clip behind a VIDEO or an IMAGE batch; `max_frames` 0: all. Raises UserError or MediaError."""
    if isinstance(driving, Tensor):
        return ImageClip(driving, fps, max_frames or None)
    return VideoClip(driving, max_frames or None)
