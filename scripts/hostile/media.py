"""Videos and pictures: small good ones are made anew, damaged, and read as a user's would be."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from hostile.case import Generator, damaged, written
from PIL import Image
from svdp.signals.images import load_image
from svdp.signals.video import VideoReader, VideoWriter

VIDEOS = {
    "mp4": ("libx264", "aac"), "mov": ("mpeg4", "pcm_s16le"), "mkv": ("libx264", "libopus"), "webm": ("libvpx", None),
    "avi": ("mpeg4", "libmp3lame"), "gif": ("gif", None), "ts": ("libx264", "aac"), "ogg": (None, "libopus"),
}  # fmt: skip
MUXERS = {"mkv": "matroska", "ts": "mpegts"}
PICTURES = ("png", "jpg", "webp", "gif", "tiff", "bmp", "avif", "qoi", "tga", "ppm", "ico", "jp2")
MOVING = ("webp", "png", "avif", "gif")


def make_video(rng: np.random.Generator, folder: Path) -> Path:
    """A damaged clip of a random container, sometimes with odd times, tags or a name that looks like an address."""
    ending = str(rng.choice(list(VIDEOS)))
    data = encode_video(rng, ending)
    name = str(rng.choice(["a", "http:a", "concat:a|b", "-i", "a b", "%03d"]))
    return written(folder / f"{name}.{ending}", damaged(rng, data))


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
    return written(folder / f"a.{ending}", damaged(rng, data))


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
    return written(folder / f"a.{ending}", damaged(rng, file.getvalue()))


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
    return written(folder / name, heads[int(rng.integers(len(heads)))] + rng.bytes(int(rng.integers(0, 3000))))


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


GENERATORS = [
    Generator("video", make_video, read_film),
    Generator("moving picture", make_moving_picture, read_film),
    Generator("picture", make_picture, load_image),
    Generator("junk as video", make_junk, read_film),
    Generator("junk as picture", make_junk, load_image),
]
