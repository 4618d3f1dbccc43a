"""Hostile files by the thousand: each is read, or refused in one line.

    python scripts/fuzz.py                          # 2,400 cases, a table of counts
    python scripts/fuzz.py --cases 200 --seed 7 --only video

A case is a function of (seed, number): a good file made anew, damaged, and given to the code that a user's file meets.
It is at fault if anything but a `UserError` comes out, if it takes over 60 s, if the process grows by over 1 GiB, or if
a file changes that is none of its own. Cases run in a process of their own, which is replaced when it hangs or dies.
The exit code is 1 if any case is at fault; each is named with its seed and number.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import numpy as np
import typer
from PIL import Image
from svdp.errors import UserError
from svdp.signals.images import load_image
from svdp.signals.video import VideoReader, VideoWriter

SECONDS, GROWTH = 60, 1 << 30  # what a case may take
PRECIOUS = "precious.mp4", b"a file of the user's"
VIDEOS = {
    "mp4": ("libx264", "aac"), "mov": ("mpeg4", "pcm_s16le"), "mkv": ("libx264", "libopus"), "webm": ("libvpx", None),
    "avi": ("mpeg4", "libmp3lame"), "gif": ("gif", None), "ts": ("libx264", "aac"), "ogg": (None, "libopus"),
}  # fmt: skip
MUXERS = {"mkv": "matroska", "ts": "mpegts"}
PICTURES = ("png", "jpg", "webp", "gif", "tiff", "bmp", "avif", "qoi", "tga", "ppm", "ico", "jp2")
MOVING = ("webp", "png", "avif", "gif")


@dataclass(frozen=True)
class Generator:
    """A kind of case: `make` puts a damaged file into a folder, `read` gives it to the code under test."""

    name: str
    make: Callable[[np.random.Generator, Path], Path]
    read: Callable[[Path], object]


def make_video(rng: np.random.Generator, folder: Path) -> Path:
    """A damaged clip of a random container, sometimes with odd times, tags or a name that looks like an address."""
    ending = str(rng.choice(list(VIDEOS)))
    data = encode_video(rng, ending)
    name = str(rng.choice(["a", "http:a", "concat:a|b", "-i", "a b", "%03d"]))
    return _write(folder / f"{name}.{ending}", damaged(rng, data))


def encode_video(rng: np.random.Generator, ending: str) -> bytes:
    """A small good clip."""
    picture, sound = VIDEOS[ending]
    file = io.BytesIO()
    count, size = int(rng.integers(1, 8)), (int(rng.integers(1, 5)) * 16, int(rng.integers(1, 5)) * 16)
    unit = Fraction(1, int(rng.choice([25, 1000, 90_000 if picture == "libx264" else 50])))
    with av.open(file, "w", format=MUXERS.get(ending, ending)) as container:
        container.metadata["title"] = str(rng.choice(["a", "\xe9\xe9", "\U0001f600"]))
        tone = container.add_stream(sound, rate=48_000, layout="mono") if sound else None
        stream = container.add_stream(picture, rate=25) if picture else None
        if stream is not None:
            stream.height, stream.width, stream.pix_fmt = *size, "rgb8" if ending == "gif" else "yuv420p"
            stream.codec_context.time_base = unit
            time = 0
            for _ in range(count):
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = time, unit
                time += int(rng.choice([1, 40, 100_000])) if ending == "mkv" else max(1, round(Fraction(1, 25) / unit))
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if tone is not None:
            _add_sound(tone, container)
    return file.getvalue()


def _add_sound(stream: Any, container: Any) -> None:
    resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=48_000)
    samples = np.sin(np.arange(9600) / 20).astype(np.float32)[None]
    frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
    fifo = av.AudioFifo()
    for piece in resampler.resample(frame):
        fifo.write(piece)
    for piece in fifo.read_many(stream.codec_context.frame_size or 960):
        container.mux(stream.encode(piece))
    container.mux(stream.encode(None))


def make_picture(rng: np.random.Generator, folder: Path) -> Path:
    """A damaged still picture of a random kind, with EXIF and colour profile at times."""
    ending = str(rng.choice(PICTURES))
    shape = (int(rng.integers(1, 80)), int(rng.integers(1, 80)), 3)
    image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    file, extra = io.BytesIO(), {}
    if ending in ("jpg", "png", "webp", "tiff") and rng.random() < 0.5:
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(0, 12))
        extra = {"exif": exif.tobytes(), "icc_profile": rng.bytes(100)}
    try:
        image.save(file, Image.registered_extensions()[f".{ending}"], **extra)
        data = file.getvalue()
    except (OSError, KeyError, ValueError):  # this Pillow cannot write it: only the first bytes are of its kind
        data = {"qoi": b"qoif\0\0\0\x40\0\0\0\x40\3\0"}.get(ending, b"") + rng.bytes(200)
    return _write(folder / f"a.{ending}", damaged(rng, data))


def make_moving_picture(rng: np.random.Generator, folder: Path) -> Path:
    """A damaged animation."""
    ending = str(rng.choice(MOVING))
    frames = [
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in range(int(rng.integers(2, 5)))
    ]
    file = io.BytesIO()
    try:
        kind = Image.registered_extensions()[f".{ending}"]
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=int(rng.integers(0, 200)))
    except (OSError, KeyError):
        file.write(b"RIFF\0\0\0\0WEBPVP8X" + rng.bytes(200))
    return _write(folder / f"a.{ending}", damaged(rng, file.getvalue()))


def make_junk(rng: np.random.Generator, folder: Path) -> Path:
    """Not a film at all: noise, text, a playlist, nothing."""
    heads = [
        b"",
        b"#EXTM3U\n",
        b"ffconcat version 1.0\nfile http://127.0.0.1/a\n",
        b"v=0\r\n",
        b"RIFF",
        b"\0\0\0\x18ftyp",
    ]
    name = str(rng.choice(["a.mp4", "a.m3u8", "a.sdp", "a.txt", "a.concat", "a"]))
    return _write(folder / name, heads[int(rng.integers(len(heads)))] + rng.bytes(int(rng.integers(0, 3000))))


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """A copy with one kind of damage: none, cut, bytes changed, a stretch zeroed, moved, or doubled."""
    changed, kind = bytearray(data), int(rng.integers(6))
    begin, end = sorted(int(i) for i in rng.integers(0, len(data) + 1, 2))
    if kind == 1:
        del changed[begin:]
    elif kind == 2:
        for place in rng.integers(0, len(data), int(rng.integers(1, 30))):
            changed[place] = int(rng.integers(256))
    elif kind == 3:
        changed[begin:end] = bytes(end - begin)
    elif kind == 4:
        changed = changed[begin:] + changed[:begin]
    elif kind == 5:
        changed[begin:begin] = changed[begin:end]
    return bytes(changed)


def read_film(path: Path) -> None:
    """As a driver: read twice, then written anew with its sound."""
    reader = VideoReader(path)
    for _ in reader:
        pass
    timing, size = reader.timing, (reader.info.height, reader.info.width)
    result = path.with_name("result.mp4")
    sound = path if reader.info.has_audio else None
    with VideoWriter(result, size, timing, sound=sound) as writer:
        for frame in reader:
            writer.write(frame)
    VideoReader(result).problems.clear()
    result.unlink()


GENERATORS: list[Generator] = [  # others add their own: weights, settings, parameters
    Generator("video", make_video, read_film),
    Generator("moving picture", make_moving_picture, read_film),
    Generator("picture", make_picture, load_image),
    Generator("junk as video", make_junk, read_film),
    Generator("junk as picture", make_junk, load_image),
]


def run_case(generator: Generator, seed: int, number: int) -> str:
    """ "read", "refused", or what was wrong, in words."""
    rng = np.random.default_rng([seed, number])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        precious = _write(folder / PRECIOUS[0], PRECIOUS[1])
        path = generator.make(rng, folder)
        before, data = resident(), path.read_bytes()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                generator.read(path)
            outcome = "read"
        except UserError as error:
            outcome = "refused" if str(error).strip() else "an error without words"
        except Exception:  # noqa: BLE001  # that is what is looked for
            outcome = traceback.format_exc().strip()
        if precious.read_bytes() != PRECIOUS[1] or path.read_bytes() != data:
            outcome = "a file that it had no business with was changed"
        if resident() - before > GROWTH:
            outcome = f"memory grew by {(resident() - before) >> 20} MiB"
    return outcome


def resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def work(line: Connection) -> None:
    """In the child: answer (generator, seed, number) with an outcome, until told None."""
    av.logging.set_level(av.logging.PANIC)
    while (case := line.recv()) is not None:
        place, seed, number = case
        line.send(run_case(GENERATORS[place], seed, number))


class Worker:
    """A child process that is replaced when it hangs or dies."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, there = context.Pipe()
        self._process = context.Process(target=work, args=(there,), daemon=True)
        self._process.start()
        there.close()

    def run(self, place: int, seed: int, number: int) -> str:
        """The outcome of a case."""
        self._line.send((place, seed, number))
        try:
            if self._line.poll(SECONDS):
                return self._line.recv()
            outcome = f"no end within {SECONDS} s"
        except EOFError:
            outcome = "the process died"
        self._process.kill()
        self._process.join()
        self._start()
        return outcome

    def stop(self) -> None:
        """End the child."""
        self._line.send(None)
        self._process.join()


def main() -> None:
    """Run the cases and print the counts."""
    options = _parse()
    chosen = [place for place, g in enumerate(GENERATORS) if options.only in g.name]
    counts: dict[str, Counter[str]] = {GENERATORS[place].name: Counter() for place in chosen}
    faults = 0
    worker = Worker()
    for number in range(options.cases):
        place = chosen[number % len(chosen)]
        outcome = worker.run(place, options.seed, number)
        known = outcome in ("read", "refused")
        counts[GENERATORS[place].name][outcome if known else "at fault"] += 1
        if not known:
            faults += 1
            typer.echo(f"case {number} of seed {options.seed} ({GENERATORS[place].name}): {outcome}\n")
    worker.stop()
    typer.echo(f"{'kind':<18}{'cases':>8}{'read':>8}{'refused':>9}{'at fault':>10}")
    for name, count in counts.items():
        typer.echo(f"{name:<18}{count.total():>8}{count['read']:>8}{count['refused']:>9}{count['at fault']:>10}")
    raise SystemExit(1 if faults else 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    return parser.parse_args()


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    main()
