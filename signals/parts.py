"""H.264 in parts of half a second, each encoded for itself.

What is on disk is then playable, and a stopped run goes on after its last whole part with the same bytes as a run
that was never stopped: no part knows of another, and the number of threads, on which x264's result depends, is fixed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av

from ..errors import MediaError
from .files import MEDIA_ERRORS, open_container

PART_SECONDS = Fraction(48, 100)  # a part in the encoder and one in the MP4 muxer are less than a second
THREADS = 4
BT709, LIMITED_RANGE = 1, 1
_GLOBAL_HEADER = 1 << 22  # AV_CODEC_FLAG_GLOBAL_HEADER: parameters once in the container, not in each part


def part_ends(ticks: tuple[int, ...], time_base: Fraction) -> list[int]:
    """Numbers of the frames before which a new part begins, the number of frames last. Depends on times alone."""
    ends, begin = [], 0
    for number, tick in enumerate(ticks):
        if (tick - ticks[begin]) * time_base >= PART_SECONDS:
            ends.append(number)
            begin = number
    return [*ends, len(ticks)]


def configure(context: Any, size: tuple[int, int], rate: Fraction, time_base: Fraction, crf: int) -> None:
    """Set an x264 context up: (height, width) even, yuv420p, BT.709, no reordered frames."""
    context.height, context.width = size
    context.pix_fmt = "yuv420p"
    context.framerate, context.time_base = rate, time_base
    context.options = {"crf": str(crf), "preset": "medium", "bf": "0"}  # fragments cannot shift reordered frames to 0
    context.thread_count = THREADS
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE


class PartEncoder:
    """Encodes frames in parts; `end` of `part_ends` closes one."""

    def __init__(self, size: tuple[int, int], rate: Fraction, time_base: Fraction, crf: int) -> None:
        self._settings = size, rate, time_base, crf
        self._context: Any = None

    def encode(self, picture: Any) -> list[Any]:
        """Packets that are ready, which may be none."""
        if self._context is None:
            self._context = av.CodecContext.create("libx264", "w")
            configure(self._context, *self._settings)
            self._context.flags |= _GLOBAL_HEADER
        return self._context.encode(picture)

    def finish(self) -> list[Any]:
        """The packets that are left of this part."""
        context, self._context = self._context, None
        return [] if context is None else context.encode(None)


def kept_packets(
    path: Path, ends: list[int], ticks: tuple[int, ...], time_base: Fraction, header: bytes | None
) -> Iterator[list[Any]]:
    """Packets of an unfinished file's whole parts, part by part, up to the first that is damaged.

    header: extradata of the encoder that goes on. Raises MediaError if the file is of another video or encoder, or
    cannot be read at all.
    """
    foreign = MediaError(f"{path} does not fit this run: begin anew with --overwrite")
    try:
        with open_container(path) as container:
            stream = container.streams.video[0]
            written = bytes(stream.codec_context.extradata or b"")
            if not all(unit in written for unit in re.split(b"\0\0\0?\1", bytes(header or b""))):
                raise foreign
            packets = _demuxed(container, stream)
            for begin, end in zip([0, *ends], ends, strict=False):
                part = list(islice(packets, end - begin))
                times = [packet.pts * Fraction(packet.time_base) for packet in part]
                if times != [tick * time_base for tick in ticks[begin : begin + len(part)]] and not begin:
                    raise foreign
                if len(part) < end - begin or not _decodes(stream, part):
                    return
                yield [_start_codes(packet) for packet in part]
    except (*MEDIA_ERRORS, IndexError) as error:
        raise MediaError(f"{path} is damaged: begin anew with --overwrite") from error


def _demuxed(container: Any, stream: Any) -> Iterator[Any]:
    """Packets up to the first damage."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (*MEDIA_ERRORS, StopIteration):
            return
        if packet.pts is None or packet.is_corrupt:
            return
        yield packet


def _decodes(stream: Any, packets: list[Any]) -> bool:
    """Whether a part gives its frames, each whole. After a power cut a file may be long enough, and empty."""
    context = av.CodecContext.create(stream.codec_context.name, "r")
    context.extradata = stream.codec_context.extradata
    try:
        frames = [frame for packet in packets for frame in context.decode(packet)]
        frames += context.decode(None)
    except MEDIA_ERRORS:
        return False
    return len(frames) == len(packets) and not any(frame.is_corrupt for frame in frames)


def _start_codes(packet: Any) -> Any:
    """The same packet as the encoder gave it: MP4 has put lengths of 4 bytes where its start codes were."""
    data, position = bytearray(bytes(packet)), 0
    while position + 4 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        data[position : position + 4] = b"\0\0\0\1"
        position += 4 + length
    copy = av.Packet(bytes(data))
    copy.pts, copy.dts, copy.duration, copy.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    copy.is_keyframe = packet.is_keyframe
    return copy
