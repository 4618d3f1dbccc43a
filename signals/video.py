"""Reading video frame by frame, and writing H.264 in MP4 that is playable, but for a second, whenever a run dies.

Rules, stated once: frames come out upright (rotation and mirroring of the metadata applied) and with square pixels. A
clip whose timestamps lie within a tenth of a frame of a steady beat is written at exactly that rate; otherwise
(variable frame rate) every frame keeps its own timestamp. H.264 in 4:2:0 needs even sides: an odd picture is extended
by one repeated row or column at the bottom or right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from ..errors import MediaError
from .animated import TIME_BASE, AnimatedPicture, is_animated
from .audio import Sound
from .files import MEDIA_ERRORS, WholeFile, open_container, open_input
from .parts import BT709, LIMITED_RANGE, PartEncoder, configure, kept_packets, part_ends

log = logging.getLogger(__name__)

_BT601 = 5
_MATRICES = (1, 4, 5, 6, 7, 9)  # codes of YUV matrices that swscale knows; anything else is read as BT.601
_MAX_MEGAPIXELS = 100
_SLOWEST, _FASTEST = Fraction(1, 1000), Fraction(1000)  # frames a second
_LONGEST = 6 * 3600  # seconds that one frame may stay; beyond, times are damage, and MP4 holds none at 90 kHz
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"[playlist]", b"<MPD")
# Written as fragments, which begin at keyframes, so that a run that dies leaves a playable file; made an ordinary MP4
# at the end. Nothing waits for the other track. (Fragments of one frame would lose less, but their times go wrong
# where sound and pictures alternate: FFmpeg 8.1.)
_MP4_OPTIONS = {"movflags": "hybrid_fragmented", "flush_packets": "1", "max_interleave_delta": "1"}


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

    def first(self, count: int) -> Timing:
        """The times of the first `count` frames."""
        return replace(self, num_frames=min(count, self.num_frames), ticks=self.ticks[:count])


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
        self._animated = AnimatedPicture(self.path) if is_animated(self.path) else None
        if self._animated is not None:
            self._rates, self._time_base = [self._animated.rate], TIME_BASE
            self.info = self._probe_animated(self._animated)
            return
        with _open(self.path) as container:
            stream = _video_stream(container, self.path)
            self._rates = _rates(stream)
            self._time_base = _fraction(stream.time_base) or 1 / self._rates[0]
            self.info = self._probe(container, stream)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.frames()

    def frames(self, first: int = 0) -> Iterator[np.ndarray]:
        """The frames from the `first` of them on; those before are read and not converted."""
        state = _Pass()
        frames = self._shown(state) if self._animated is None else self._animated_frames(self._animated, state)
        for index, (tick, convert) in enumerate(frames):
            if index < self.start:
                continue
            if self.max_frames is not None and len(state.ticks) >= self.max_frames:
                break
            state.ticks.append(tick)
            if len(state.ticks) > first:
                yield convert()
        if not state.ticks:
            raise MediaError(self._nothing(state))
        state.complete = True
        self._last = state

    def _shown(self, state: _Pass) -> Iterator[tuple[int | None, Callable[[], np.ndarray]]]:
        """Time and picture of each frame; the picture is made when it is asked for."""
        size, reformat, turn = (self.info.height, self.info.width), VideoReformatter(), self._turn
        with _open(self.path) as container:
            for frame in _decode(container, _video_stream(container, self.path), state):
                if _rotation(frame) != turn.rotation:
                    turn = _Turn.of(frame)
                yield frame.pts, lambda frame=frame, how=turn.how: _upright(reformat, frame, size, how)

    def _animated_frames(
        self, picture: AnimatedPicture, state: _Pass
    ) -> Iterator[tuple[int | None, Callable[[], np.ndarray]]]:
        found = 0
        for tick, frame in picture.frames():
            found += 1
            yield tick, lambda frame=frame: frame
        state.errors += found < picture.declared_frames

    def _probe_animated(self, picture: AnimatedPicture) -> VideoInfo:
        _check_size(self.path, picture.width, picture.height)
        if next(picture.frames(), None) is None or picture.declared_frames <= self.start:
            raise MediaError(self._nothing(_Pass(errors=not self.start)))
        return VideoInfo(
            path=self.path,
            width=picture.width,
            height=picture.height,
            fps=self._rates[0],
            declared_frames=picture.declared_frames,
            has_audio=False,
        )

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
        _check_size(self.path, width, height)
        self._turn = _Turn.of(first)
        if self._turn.how.transposed:
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


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """An input container with a readable format. Raises MediaError."""
    with ExitStack() as stack:
        with open_input(path, "video") as file:
            still = file.read(12)[4:] in (b"ftypavif", b"ftypheic", b"ftypmif1")
        try:
            container = stack.enter_context(open_container(path))
        except MEDIA_ERRORS as error:
            raise MediaError(_unreadable(path, error)) from error
        name = container.format.name
        if still or name in ("tty", "image2") or name.endswith("_pipe"):
            what = "a text file" if name == "tty" else "a still picture"
            raise MediaError(f"{path} is {what}, not a video: give a moving picture, such as MP4, MOV, WebM or GIF")
        yield container


def _unreadable(path: Path, error: Exception) -> str:
    with open_input(path, "video") as file:
        head = file.read(1024).lstrip()
    if any(mark in head for mark in _PLAYLISTS):
        return f"{path} is a playlist: give the video itself, as one file on this machine"
    words = getattr(error, "strerror", None) or error
    return (
        f"{path} is not a video that can be read, or it was cut off before its index was written "
        f"({words}): convert or record it anew as MP4"
    )


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > _MAX_MEGAPIXELS * 1_000_000:
        raise MediaError(f"{path} has frames of {width}x{height}: at most {_MAX_MEGAPIXELS} megapixels; scale it down")


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
        except MEDIA_ERRORS as error:
            log.info("reading stopped early: %s", error)
            state.errors += 1
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except MEDIA_ERRORS as error:
            log.debug("a packet does not decode: %s", error)
            state.errors += 1


def _upright(reformat: VideoReformatter, frame: Any, size: tuple[int, int], how: _Orientation) -> np.ndarray:
    """RGB (H, W, 3) of the shown size: square pixels, turned and mirrored as `how` says, C-contiguous."""
    height, width = size[::-1] if how.transposed else size
    matrix = int(frame.colorspace) if frame.colorspace in _MATRICES else _BT601
    picture = reformat.reformat(
        frame, width=width, height=height, format="rgb24", src_colorspace=matrix, dst_colorspace=_BT601
    )  # older PyAV converts only where the two differ; RGB itself has no matrix
    shown = picture.to_ndarray()
    shown = shown.swapaxes(0, 1) if how.transposed else shown
    return np.ascontiguousarray(shown[:: -1 if how.flip_y else 1, :: -1 if how.flip_x else 1])


class _Orientation(NamedTuple):
    """How a decoded frame becomes the shown one: first transposed, then flipped."""

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False


class _Turn(NamedTuple):
    """How frames of a stream are turned, and the rotation by which a change of it is seen.

    Frame and side data refer to each other, so each frame that is asked for its own stays in memory until Python looks
    for such cycles, which it seldom does: hundreds of megabytes. Their rotation is told without.
    """

    rotation: int
    how: _Orientation

    @classmethod
    def of(cls, frame: Any) -> _Turn:
        """Of a decoded frame."""
        return cls(_rotation(frame), _orientation(frame))


def _rotation(frame: Any) -> int:
    return getattr(frame, "rotation", 0)  # PyAV 13 does not say


def _orientation(frame: Any) -> _Orientation:
    """From the display matrix, (x', y') = (a x + c y, b x + d y) y downwards; rounded to right angles."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None or data.buffer_size < 36:
        return _Orientation()
    a, b, _, c, d = np.frombuffer(bytes(data), "=i4")[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _Orientation(False, a < 0, d < 0)
    return _Orientation(True, c < 0, b < 0)


def _fraction(value: Any) -> Fraction | None:
    """PyAV's rational (its type differs between versions) as a Fraction; None where unset."""
    return Fraction(int(value.numerator), int(value.denominator)) if value else None


def _rates(stream: Any) -> list[Fraction]:
    """Candidates for the frame rate, likeliest first; 25 if the file says nothing at all."""
    found = [_fraction(r) for r in (stream.guessed_rate, stream.average_rate, stream.base_rate)]
    return list(dict.fromkeys(r for r in found if r and _SLOWEST <= r <= _FASTEST)) or [Fraction(25)]


def _timing(ticks: list[int | None], time_base: Fraction, rates: list[Fraction]) -> Timing:
    known = [t for t in ticks if t is not None]
    begin = known[0] * time_base if known else Fraction(0)
    if len(known) < len(ticks) or any(b <= a for a, b in pairwise(known)):
        return steady_timing(len(ticks), rates[0], begin)  # no usable timestamps
    relative = [t - known[0] for t in known]
    if any((b - a) * time_base > _LONGEST for a, b in pairwise(known)):
        return steady_timing(len(ticks), rates[0], begin)
    for rate in rates:
        slack = max(time_base, Fraction(1, 10) / rate)
        if all(abs(t * time_base - i / rate) <= slack for i, t in enumerate(relative)):
            return steady_timing(len(ticks), rate, begin)
    mean = (len(relative) - 1) / (relative[-1] * time_base)
    return Timing(
        num_frames=len(ticks),
        fps=min(max(mean.limit_denominator(1001), _SLOWEST), _FASTEST),
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
    `timing.begin` on, cut at the last frame's end if `cut_sound`. Pictures are encoded in parts (`svdp.signals.parts`)
    and each is brought to the disk: a process that dies, or a power cut, takes the frames of the last second.
    kept: a file that an earlier writer with the same arguments left unfinished; `frames_written` then begins after its
    whole parts, and the finished file has the same frames and sound as if it had been written at once.
    Use as a context manager: leaving it, by an error too, finishes the file with the frames written so far.
    Raises MediaError if it cannot be written (disk full, ...) or `kept` does not fit.
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
        kept: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.size = size
        self.timing = timing
        self.frames_written = 0
        self.frames_safe = 0  # in whole parts on the disk: what a later writer can keep
        self._packets = self._muxed = 0
        self._reformat = VideoReformatter()
        self._failed = False
        self._ends = part_ends(timing.ticks, timing.time_base)
        even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self._parts = PartEncoder(even, timing.fps, timing.time_base, crf)
        try:
            self._file = WholeFile(self.path, "wb+")
            self._container = av.open(self._file, "w", format="mp4", options=_MP4_OPTIONS)
            self._stream: Any = self._container.add_stream("libx264", rate=timing.fps)
            configure(self._stream.codec_context, even, timing.fps, timing.time_base, crf)
            end = timing.time(timing.num_frames) if cut_sound else None
            self._sound = Sound.open(sound, self._container, begin=timing.begin, end=end) if sound else None
        except OSError as error:
            raise MediaError(_cannot_write(self.path, error)) from error
        if kept is not None:
            self._keep(Path(kept))

    def _keep(self, path: Path) -> None:
        self._begin()
        header = self._stream.codec_context.extradata
        for part in kept_packets(path, list(self._ends), self.timing.ticks, self.timing.time_base, header):
            self.frames_written += len(part)
            self._end_part(part)

    def _begin(self) -> None:
        try:
            self._container.start_encoding()
        except OSError as error:
            self._failed = True
            raise MediaError(_cannot_write(self.path, error)) from error

    def write(self, frame: np.ndarray) -> None:
        """Append one RGB uint8 frame (H, W, 3) of the size given at the start."""
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise MediaError(f"frames must be uint8 {(*self.size, 3)}, got {frame.dtype} {frame.shape}")
        if self.frames_written >= self.timing.num_frames:
            raise MediaError(f"{self.path} was planned for {self.timing.num_frames} frames")
        if not self.frames_written:
            self._begin()
        pad = [(0, side % 2) for side in self.size]
        picture = av.VideoFrame.from_ndarray(np.pad(frame, [*pad, (0, 0)], mode="edge"), format="rgb24")
        picture = self._reformat.reformat(
            picture, format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE
        )
        picture.pts, picture.time_base = self.timing.ticks[self.frames_written], self.timing.time_base
        self.frames_written += 1
        packets = self._parts.encode(picture)
        if self.frames_written == self._ends[0]:
            self._end_part(packets + self._parts.finish())
        else:
            self._mux(packets, sound_until=self.timing.time(self.frames_written) if packets else Fraction(0))

    def _end_part(self, packets: list[Any]) -> None:
        end = self._ends.pop(0)
        whole = self.frames_written == self.timing.num_frames
        self._mux(packets, sound_until=None if whole else self.timing.time(end))
        try:
            self._file.sync()
        except OSError as error:
            self._failed = True
            raise MediaError(_cannot_write(self.path, error)) from error
        self.frames_safe, self._muxed = self._muxed, end  # the muxer holds a part until the next begins

    def close(self) -> None:
        """Finish the file with the frames written so far and the sound up to there; without any, there is no file."""
        if self._failed:
            return
        if self.frames_written and self.frames_written < self.timing.num_frames:
            self._mux(self._parts.finish(), sound_until=self.timing.time(self.frames_written))
        try:
            if self._sound is not None:
                self._sound.close()
            self._container.close()
            self._file.sync()
            self._file.close()
            self.frames_safe = self._muxed
        except OSError as error:
            self._failed = True
            raise MediaError(_cannot_write(self.path, error)) from error
        if not self.frames_written:
            self.path.unlink(missing_ok=True)

    def _duration(self, packet: Any) -> int:
        """In the packet's units of time; frames are not reordered."""
        number, self._packets = self._packets, self._packets + 1
        return round((self.timing.time(number + 1) - self.timing.time(number)) / Fraction(packet.time_base))

    def _mux(self, packets: list[Any], *, sound_until: Fraction | None) -> None:
        """Write packets and the sound up to that many seconds (None: all that is left)."""
        try:
            for packet in packets:
                packet.stream = self._stream
                packet.duration = self._duration(packet)  # else the muxer guesses it where sound comes in between
                self._container.mux_one(packet)
            if self._sound is not None:
                self._sound.feed(sound_until)
        except MEDIA_ERRORS as error:
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


def _cannot_write(path: Path, error: Exception) -> str:
    remedy = "free some space and run again, or choose another place with -o"
    return f"cannot write {path} ({getattr(error, 'strerror', error)}): {remedy}"
