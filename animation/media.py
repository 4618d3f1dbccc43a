"""What a run reads and where its frames go when they are no files: pictures and clips in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType

import numpy as np

from ..errors import MediaError
from ..signals.images import load_image
from ..signals.opencv import cv2
from ..signals.video import Timing, VideoInfo, VideoReader
from .config import IN_MEMORY, AnimateConfig

LEAST_SIDE = 32  # pixels of a picture, as `signals.images.load_image` asks for


class FrameArray:
    """A clip in memory, which is read like a `signals.video.VideoReader`.

    frames: (F, H, W, 3) uint8 RGB, or as many pictures of one size. start: the frame to begin with. Raises MediaError
    if they are not, or if there is no frame after `start`.
    """

    problems: tuple[str, ...] = ()

    def __init__(self, frames: np.ndarray | Sequence[np.ndarray], fps: float, *, start: int = 0) -> None:
        for number, frame in enumerate(frames):
            check_picture(f"frame {number} of the driving clip", frame)
            if frame.shape != frames[0].shape:
                raise MediaError(
                    f"frame {number} of the driving clip has shape {frame.shape}, the first {frames[0].shape}: give "
                    "frames of one size"
                )
        if not 0 < fps <= 1000:
            raise MediaError(f"fps must be above 0 and at most 1000, got {fps}")
        self._frames = frames[start:]
        if not len(self._frames):
            raise MediaError(f"the driving clip of {len(frames)} frames has no frame {start} to start at")
        rate = Fraction(fps).limit_denominator(1001)
        height, width = self._frames[0].shape[:2]
        self.info = VideoInfo(
            path=IN_MEMORY, width=width, height=height, fps=rate, declared_frames=len(frames), has_audio=False
        )
        ticks = tuple(range(len(self._frames)))
        self.timing = Timing(
            num_frames=len(ticks), fps=rate, constant=True, begin=Fraction(0), ticks=ticks, time_base=1 / rate
        )

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.timing.num_frames

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.frames()

    def frames(self, first: int = 0) -> Iterator[np.ndarray]:
        """The frames from the `first` of them on."""
        return iter(np.ascontiguousarray(frame) for frame in self._frames[first:])


Clip = VideoReader | FrameArray


@dataclass(frozen=True)
class Media:
    """The inputs of a run that are in memory; what is None is read from the file that the settings name."""

    source: np.ndarray | None = None  # (H, W, 3) uint8 RGB
    driving: np.ndarray | Sequence[np.ndarray] | None = None  # (F, H, W, 3) uint8 RGB
    fps: float = 25.0  # of `driving`

    def picture(self, cfg: AnimateConfig) -> np.ndarray:
        """The portrait, at most `cfg.max_side` pixels long. Raises MediaError."""
        if self.source is None:
            return load_image(cfg.source, max_side=cfg.max_side)
        check_picture("the source", self.source)
        height, width = self.source.shape[:2]
        scale = cfg.max_side / max(height, width)
        if scale >= 1:
            return np.ascontiguousarray(self.source)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return cv2.resize(self.source, size, interpolation=cv2.INTER_AREA)

    def reader(self, cfg: AnimateConfig) -> Clip:
        """The driving clip from `cfg.start` on: all of it: the first frames depend on the rest. Raises MediaError."""
        if self.driving is None:
            return VideoReader(cfg.driving, start=cfg.start)
        return FrameArray(self.driving, self.fps, start=cfg.start)


class FrameKeeper:
    """Keeps the frames of a result; used like a `signals.video.VideoWriter`."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def write(self, frame: np.ndarray) -> None:
        """Keep a frame (H, W, 3) uint8."""
        self.frames.append(np.array(frame))

    @property
    def frames_written(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def __enter__(self) -> FrameKeeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass


def check_picture(what: str, picture: object) -> None:
    """Raise MediaError that begins with `what` unless the picture is (H, W, 3) uint8 of usable size."""
    if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        kind = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise MediaError(f"{what} must be an RGB array (H, W, 3) of uint8, got {kind}")
    if min(picture.shape[:2]) < LEAST_SIDE:
        raise MediaError(f"{what} is {picture.shape[1]}x{picture.shape[0]} pixels: too small to hold a face")
