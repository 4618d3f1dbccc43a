"""Reading video frame by frame, and writing H.264 in MP4 that is playable at every moment of a long run.

Rules, stated once: frames come out upright (rotation metadata applied) and with square pixels. A clip whose timestamps
lie within a tenth of a frame of a steady beat is written at exactly that rate; otherwise (variable frame rate) every
frame keeps its own timestamp. H.264 in 4:2:0 needs even sides: an odd picture is extended by one repeated row or column
at the bottom or right.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from ..errors import MediaError
from .audio import Sound

log = logging.getLogger(__name__)

_BT709, _BT601 = 1, 5
_MATRICES = (1, 4, 5, 6, 7, 9)  # codes of YUV matrices that swscale knows; anything else is read as BT.601
_LIMITED_RANGE = 1
# Written as fragments, so that a run that dies leaves a playable file, and made an ordinary MP4 at the end.
_MP4_OPTIONS = {"movflags": "hybrid_fragmented", "flush_packets": "1"}


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What the container says; counts and times of frames are known only after reading (`VideoReader.timing`)."""

    path: Path
    width: int  # as shown: after rotation, with square pixels
    height: int
    fps: Fraction
    declared_frames: int  # 0: the container does not say
    has_audio: bool


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When each frame is shown."""

    num_frames: int
    fps: Fraction  # exact where constant, else the mean
    constant: bool
    begin: Fraction  # seconds in the file at which the first frame is shown
    ticks: tuple[int, ...]  # per frame, from 0, in units of time_base
    time_base: Fraction

    def time(self, frame: int) -> Fraction:
        """Seconds from the first frame to this one; one past the last gives the end of the clip."""
        if frame < self.num_frames:
            return self.ticks[frame] * self.time_base
        return self.ticks[-1] * self.time_base + (frame - self.num_frames + 1) / self.fps


@dataclass
class _Pass:
    """What one reading of a file found."""

    ticks: list[int | None] = field(default_factory=list)
    errors: int = 0
    complete: bool = False


class VideoReader:
    """Frames of a video as RGB uint8 (H, W, 3), one at a time; every `iter()` reads the file again.

    start, max_frames: which frames to give, counted in decoded frames. After a full reading `timing`, `num_frames` and
    `problems` are known. Raises MediaError: no such file, not a video, only sound, a still picture, no frames.
    """

    def __init__(self, path: str | Path, *, start: int = 0, max_frames: int | None = None) -> None:
        self.path = Path(path)
        if start < 0 or (max_frames is not None and max_frames < 1):
            raise MediaError(f"start must be 0 or more and max frames 1 or more, got {start} and {max_frames}")
        self.start = start
        self.max_frames = max_frames
        self._last: _Pass | None = None
        with _open(self.path) as container:
            stream = _video_stream(container, self.path)
            self._rates = _rates(stream)
            self._time_base = _fraction(stream.time_base) or 1 / self._rates[0]
            self.info = self._probe(container, stream)

    def __iter__(self) -> Iterator[np.ndarray]:
        state = _Pass()
        size = self.info.height, self.info.width
        reformat = VideoReformatter()
        with _open(self.path) as container:
            for index, frame in enumerate(_decode(container, _video_stream(container, self.path), state)):
                if index < self.start:
                    continue
                if self.max_frames is not None and len(state.ticks) >= self.max_frames:
                    break
                state.ticks.append(frame.pts)
                yield _upright(reformat, frame, size)
        if not state.ticks:
            raise MediaError(self._nothing(state))
        state.complete = True
        self._last = state

    @property
    def num_frames(self) -> int:
        """Number of frames that decode; reads the file if that has not been done."""
        return len(self._read().ticks)

    @property
    def timing(self) -> Timing:
        """Times of the frames; reads the file if that has not been done."""
        return _timing(self._read().ticks, self._time_base, self._rates)

    @property
    def problems(self) -> list[str]:
        """What was wrong with the file though it could be read, in words for the user."""
        state, declared = self._read(), self.info.declared_frames
        found = len(state.ticks) + self.start
        cut = self.max_frames is not None and len(state.ticks) == self.max_frames
        short = bool(state.errors) or found < 0.9 * declared  # decoders at work in threads may lose their error
        if short and not cut and found < declared:
            return [f"{self.path} is damaged or cut short: {found} of {declared} frames decode; these are used"]
        if state.errors:
            return [
                f"{self.path} has {state.errors} damaged places; the {len(state.ticks)} frames that decode are used"
            ]
        return []

    def _read(self) -> _Pass:
        if self._last is None:
            for _ in self:
                pass
        assert self._last is not None
        return self._last

    def _probe(self, container: Any, stream: Any) -> VideoInfo:
        first = next(_decode(container, stream, state := _Pass()), None)
        if first is None or 0 < stream.frames <= self.start:
            raise MediaError(self._nothing(state))
        aspect = _fraction(stream.sample_aspect_ratio) or Fraction(1)
        width, height = max(1, round(first.width * aspect)), first.height
        if first.rotation % 180:
            width, height = height, width
        return VideoInfo(
            path=self.path,
            width=width,
            height=height,
            fps=self._rates[0],
            declared_frames=stream.frames,
            has_audio=bool(container.streams.audio),
        )

    def _nothing(self, state: _Pass) -> str:
        if state.errors:
            return f"video {self.path} is damaged: none of its frames decodes; export it anew"
        if self.start:
            return f"video {self.path} has no frame {self.start} to start at: choose a smaller --start"
        return f"video {self.path} has no frames: export it anew"


def _open(path: Path) -> Any:
    """An input container with a readable format. Raises MediaError."""
    if not path.is_file():
        raise MediaError(f"video {path} does not exist: check the path")
    try:
        container = av.open(str(path))
    except FFmpegError as error:
        raise MediaError(
            f"{path} is not a video that can be read, or it was cut off before its index was written "
            f"({error.strerror}): convert or record it anew as MP4"
        ) from error
    name = container.format.name
    if name in ("tty", "image2") or name.endswith("_pipe"):
        container.close()
        what = "a text file" if name == "tty" else "a still picture"
        raise MediaError(f"{path} is {what}, not a video: give a moving picture, such as MP4, MOV, WebM or GIF")
    return container


def _video_stream(container: Any, path: Path) -> Any:
    cover = Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        what = "only sound" if container.streams.audio else "no picture"
        raise MediaError(f"{path} holds {what}: give a video with moving pictures")
    return streams[0]


def _decode(container: Any, stream: Any, state: _Pass) -> Iterator[Any]:
    """Frames that decode; damaged packets are counted and passed over."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError as error:
            log.info("reading stopped early: %s", error)
            state.errors += 1
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except FFmpegError as error:
            log.debug("a packet does not decode: %s", error)
            state.errors += 1


def _upright(reformat: VideoReformatter, frame: Any, size: tuple[int, int]) -> np.ndarray:
    """RGB (H, W, 3) of the shown size: square pixels, rotation applied, C-contiguous."""
    turns = round(frame.rotation / 90) % 4
    height, width = size if turns % 2 == 0 else size[::-1]
    matrix = int(frame.colorspace) if frame.colorspace in _MATRICES else _BT601
    picture = reformat.reformat(
        frame, width=width, height=height, format="rgb24", src_colorspace=matrix, dst_colorspace=_BT601
    )  # older PyAV converts only where the two differ; RGB itself has no matrix
    return np.ascontiguousarray(np.rot90(picture.to_ndarray(), turns))


def _fraction(value: Any) -> Fraction | None:
    """PyAV's rational (its type differs between versions) as a Fraction; None where unset."""
    return Fraction(int(value.numerator), int(value.denominator)) if value else None


def _rates(stream: Any) -> list[Fraction]:
    """Candidates for the frame rate, likeliest first; 25 if the file says nothing at all."""
    found = [_fraction(r) for r in (stream.guessed_rate, stream.average_rate, stream.base_rate)]
    return list(dict.fromkeys(r for r in found if r and r <= 1000)) or [Fraction(25)]


def _timing(ticks: list[int | None], time_base: Fraction, rates: list[Fraction]) -> Timing:
    known = [t for t in ticks if t is not None]
    begin = known[0] * time_base if known else Fraction(0)
    if len(known) < len(ticks) or any(b <= a for a, b in pairwise(known)):
        return steady_timing(len(ticks), rates[0], begin)  # no usable timestamps
    relative = [t - known[0] for t in known]
    for rate in rates:
        slack = max(time_base, Fraction(1, 10) / rate)
        if all(abs(t * time_base - i / rate) <= slack for i, t in enumerate(relative)):
            return steady_timing(len(ticks), rate, begin)
    mean = (len(relative) - 1) / (relative[-1] * time_base)
    return Timing(
        num_frames=len(ticks),
        fps=mean.limit_denominator(1001),
        constant=False,
        begin=begin,
        ticks=tuple(relative),
        time_base=time_base,
    )


def steady_timing(num_frames: int, fps: Fraction, begin: Fraction = Fraction(0)) -> Timing:
    """Frames at an even beat, the first of them at `begin` seconds."""
    return Timing(
        num_frames=num_frames, fps=fps, constant=True, begin=begin, ticks=tuple(range(num_frames)), time_base=1 / fps
    )


class VideoWriter:
    """H.264 (yuv420p, BT.709) in MP4, frame after frame, with the driver's sound muxed alongside.

    size: (height, width) of the frames; timing: when they are shown; sound: a file whose sound to take, from the moment
    `timing.begin` on, cut at the last frame's end if `cut_sound`. Use as a context manager: leaving it, by an error
    too, finishes the file with the frames written so far. Raises MediaError if it cannot be written (disk full, ...).
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        timing: Timing,
        *,
        sound: str | Path | None = None,
        cut_sound: bool = False,
        crf: int = 14,
    ) -> None:
        self.path = Path(path)
        self.size = size
        self.timing = timing
        self.frames_written = 0
        self._reformat = VideoReformatter()
        self._failed = False
        try:
            self._container = av.open(str(self.path), "w", format="mp4", options=_MP4_OPTIONS)
            self._stream = self._add_stream(crf)
            end = timing.time(timing.num_frames) if cut_sound else None
            self._sound = Sound.open(sound, self._container, begin=timing.begin, end=end) if sound else None
        except OSError as error:
            raise MediaError(_cannot_write(self.path, error)) from error

    def _add_stream(self, crf: int) -> Any:
        height, width = (side + side % 2 for side in self.size)
        stream: Any = self._container.add_stream("libx264", rate=self.timing.fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {
            "crf": str(crf),
            "preset": "medium",
            "bf": "0",
        }  # fragments cannot shift reordered frames to 0
        stream.gop_size = max(1, round(2 * self.timing.fps))
        context = stream.codec_context
        context.time_base = self.timing.time_base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        return stream

    def write(self, frame: np.ndarray) -> None:
        """Append one RGB uint8 frame (H, W, 3) of the size given at the start."""
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise MediaError(f"frames must be uint8 {(*self.size, 3)}, got {frame.dtype} {frame.shape}")
        if self.frames_written >= self.timing.num_frames:
            raise MediaError(f"{self.path} was planned for {self.timing.num_frames} frames")
        pad = [(0, side % 2) for side in self.size]
        picture = av.VideoFrame.from_ndarray(np.pad(frame, [*pad, (0, 0)], mode="edge"), format="rgb24")
        picture = self._reformat.reformat(
            picture, format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE
        )
        picture.pts, picture.time_base = self.timing.ticks[self.frames_written], self.timing.time_base
        self.frames_written += 1
        self._mux(self._stream.encode(picture), sound_until=self.timing.time(self.frames_written))

    def close(self) -> None:
        """Finish the file with the frames written so far and the sound up to there."""
        if self._failed:
            return
        if self.frames_written:  # without any, the file has not been begun and stays empty
            whole = self.frames_written == self.timing.num_frames
            self._mux(self._stream.encode(None), sound_until=None if whole else self.timing.time(self.frames_written))
        try:
            if self._sound is not None:
                self._sound.close()
            self._container.close()
        except OSError as error:
            self._failed = True
            raise MediaError(_cannot_write(self.path, error)) from error

    def _mux(self, packets: list[Any], *, sound_until: Fraction | None) -> None:
        """Write packets and the sound up to that many seconds (None: all that is left)."""
        try:
            self._container.mux(packets)
            if self._sound is not None:
                self._sound.feed(sound_until)
        except OSError as error:
            self._failed = True
            raise MediaError(_cannot_write(self.path, error)) from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.close()
        except MediaError as closing:
            if error is None:
                raise
            log.info("while finishing the file: %s", closing)


def _cannot_write(path: Path, error: OSError) -> str:
    remedy = "free some space and run again, or choose another place with -o"
    return f"cannot write {path} ({error.strerror}): {remedy}"
