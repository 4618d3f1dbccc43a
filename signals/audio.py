"""Sound carried from one file into another: packets copied where they fit as they are, else encoded anew as AAC.

The MP4 that `svdp.signals.video` writes has no edit lists (it is written in fragments), so its sound begins at 0. Sound
that does not begin with the first frame (a part of a clip, a delayed track) is therefore decoded, cut or led in by
silence to the sample, and encoded; so are codecs that MP4 players do not take.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from .files import MEDIA_ERRORS, open_container

log = logging.getLogger(__name__)

_COPIED = ("aac", "mp3", "ac3", "eac3", "alac", "opus")
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_ON_TIME = Fraction(5, 1000)  # seconds: nobody hears less
_GAP = Fraction(20, 1000)  # seconds: shorter gaps in timestamps are rounding, longer ones silence


class Sound:
    """The first sound track of a file, fed into an output container as far as its pictures have got.

    Times are seconds from `begin`, the moment in the source file that becomes 0; `end` cuts the sound there.
    """

    def __init__(self, source: Any, output: Any, *, begin: Fraction, end: Fraction | None, copy: bool) -> None:
        self._source, self._output = source, output
        self._stream = source.streams.audio[0]
        self._begin, self._end = begin, end
        self._opened = ExitStack()  # closes the source
        self._out = output.add_stream_from_template(self._stream) if copy else _aac_stream(output, self._stream)
        self._packets = self._copied() if copy else self._encoded()
        self._waiting: tuple[Fraction, Any] | None = None

    @classmethod
    def open(cls, path: str | Path, output: Any, *, begin: Fraction, end: Fraction | None) -> Sound | None:
        """The sound of `path`, or None, with a warning, if it has none that can be used."""
        try:
            copy = _can_copy(Path(path), begin)
            with ExitStack() as stack:
                source = stack.enter_context(open_container(Path(path)))
                if not source.streams.audio:
                    return None
                sound = cls(source, output, begin=begin, end=end, copy=copy)
                sound._opened = stack.pop_all()
                return sound
        except MEDIA_ERRORS as error:
            log.warning("the sound of %s cannot be used (%s): the result is silent", path, error)
            return None

    def feed(self, until: Fraction | None) -> None:
        """Write the packets that start before `until` seconds; None: all that are left."""
        while (item := self._waiting or next(self._packets, None)) is not None:
            self._waiting = item
            if until is not None and item[0] >= until:
                return
            self._waiting = None
            self._output.mux(item[1])

    def close(self) -> None:
        """Close the source file."""
        self._packets = iter(())
        self._opened.close()

    def _copied(self) -> Iterator[tuple[Fraction, Any]]:
        for packet in _demuxed(self._source, self._stream):
            base = _time_base(packet)
            time = packet.pts * base - self._begin
            if self._end is not None and time >= self._end:
                return
            if time >= 0:  # what comes before is the encoder's run-in
                shift = round(self._begin / base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = self._out
                yield time, packet

    def _encoded(self) -> Iterator[tuple[Fraction, Any]]:
        rate, layout = self._out.codec_context.sample_rate, self._out.codec_context.layout.name
        written = 0
        for samples in self._placed(rate, layout):
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, written, Fraction(1, rate)
            written += samples.shape[1]
            yield from _timed(self._out.encode(frame))
        yield from _timed(self._out.encode(None))

    def _placed(self, rate: int, layout: str) -> Iterator[np.ndarray]:
        """Samples (channels, n), without a gap from `begin` to `end`: early ones cut off, gaps filled with silence."""
        position, last = 0, None if self._end is None else round(self._end * rate)
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        for packet in _demuxed(self._source, self._stream):
            for piece in (piece for frame in _decoded(packet) for piece in resampler.resample(frame)):
                samples = np.ascontiguousarray(piece.to_ndarray())
                start = (
                    round((piece.pts * _time_base(piece) - self._begin) * rate) if piece.pts is not None else position
                )
                if start - position > _GAP * rate:
                    silence = start if last is None else min(start, last)
                    for begin in range(position, silence, rate):  # a second at most, however long the gap is
                        yield np.zeros((len(samples), min(rate, silence - begin)), np.float32)
                    position = max(position, silence)
                samples = samples[:, max(0, -start) if position == 0 else 0 :]
                samples = samples if last is None else samples[:, : max(0, last - position)]
                if samples.shape[1]:
                    position += samples.shape[1]
                    yield np.ascontiguousarray(samples)
                if last is not None and position >= last:
                    return


def _can_copy(path: Path, begin: Fraction) -> bool:
    """Whether MP4 takes the packets as they are, and one of them starts where the pictures do."""
    with open_container(path) as source:
        if not source.streams.audio:
            return False
        stream: Any = source.streams.audio[0]
        name = stream.codec_context.codec.canonical_name
        if name not in _COPIED or (name == "aac" and not stream.codec_context.extradata):  # broadcast AAC has no header
            return False
        times = (packet.pts * _time_base(packet) - begin for packet in _demuxed(source, stream))
        return next((time for time in times if time >= 0), _ON_TIME + 1) <= _ON_TIME


def _demuxed(source: Any, stream: Any) -> Iterator[Any]:
    """Packets with a timestamp; damage ends the sound, not the run."""
    packets = source.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except MEDIA_ERRORS as error:
            log.warning("the sound breaks off: %s", error)
            return
        if packet is None:
            return
        if packet.pts is not None and packet.dts is not None:
            yield packet


def _decoded(packet: Any) -> list[Any]:
    try:
        return packet.decode()
    except MEDIA_ERRORS as error:
        log.info("a piece of sound does not decode: %s", error)
        return []


def _time_base(timed: Any) -> Fraction:
    return Fraction(int(timed.time_base.numerator), int(timed.time_base.denominator))


def _timed(packets: list[Any]) -> Iterator[tuple[Fraction, Any]]:
    """Encoded packets with their times, without the encoder's run-in before 0."""
    return ((packet.pts * _time_base(packet), packet) for packet in packets if packet.pts >= 0)


def _aac_stream(output: Any, source: Any) -> Any:
    context = source.codec_context
    rate = context.sample_rate if context.sample_rate in _AAC_RATES else 48000
    stream = output.add_stream("aac", rate=rate, layout="mono" if context.channels == 1 else "stereo")
    stream.bit_rate = 192_000 if context.channels > 1 else 96_000
    return stream
