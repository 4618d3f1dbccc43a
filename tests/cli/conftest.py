"""Small real media, made with PyAV and Pillow where a test asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

FORMATS = {".mkv": "matroska", ".m4a": "ipod", ".ts": "mpegts"}  # others are named as their files end


def moving_frames(count: int, size: tuple[int, int] = (48, 64)) -> Iterable[np.ndarray]:
    """Frames whose grey says their number: 4 * index + 16, with a white top left corner."""
    for index in range(count):
        frame = np.full((*size, 3), (4 * index + 16) % 256, np.uint8)
        frame[: size[0] // 4, : size[1] // 4] = 255
        yield frame


def encode_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: Fraction = Fraction(25),
    ticks: list[int] | None = None,
    time_base: Fraction | None = None,
    rotate: int = 0,
    sound: str | None = None,
    seconds: float = 2.0,
    codec: str = "libx264",
    muxing: dict[str, str] | None = None,
    title: str = "",
    late: int = 0,
) -> Path:
    """Write a clip; sound names an audio codec; rotate is the display rotation in degrees counterclockwise.

    The sound pauses for `late` seconds after its first quarter of a second.
    """
    with (
        path.open("wb") as file,
        av.open(file, "w", format=FORMATS.get(path.suffix, path.suffix[1:]), options=muxing or {}) as container,
    ):
        if title:
            container.metadata["title"] = title
        stream: Any = None
        tone: Any = container.add_stream(sound, rate=16000, layout="mono") if sound else None
        for index, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=fps)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p" if codec != "gif" else "rgb8"
                stream.codec_context.time_base = time_base or 1 / fps
                if rotate:
                    stream.set_display_rotation(rotate)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = ticks[index] if ticks else index, time_base or 1 / fps
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode(None))
        if tone is not None:
            for packet in tone_packets(tone, seconds):
                assert packet.pts is not None and packet.dts is not None
                shift = round(late / packet.time_base) if packet.pts >= 4000 else 0
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                container.mux(packet)
    return path


def tone_packets(stream: Any, seconds: float) -> Iterable[Any]:
    """A 440 Hz tone that starts half a second into the sound, so that its place in time can be measured."""
    time = np.arange(int(16000 * seconds)) / 16000
    wave = (np.sin(2 * np.pi * 440 * time) * (time >= 0.5) * 12000).astype(np.int16)
    resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=16000)
    for start in range(0, len(wave), 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        for piece in resampler.resample(frame):
            yield from stream.encode(piece)
    yield from stream.encode(None)


def sound_of(path: Path) -> tuple[np.ndarray, int]:
    """All sound of a file (samples, mono float) placed by its timestamps from 0, and the sample rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        rate = stream.codec_context.sample_rate
        samples = np.zeros(int(20 * rate), np.float32)
        end = 0
        for frame in container.decode(stream):
            values = frame.to_ndarray().astype(np.float32).reshape(-1)
            if frame.format.name.startswith("s16"):
                values = values / 32768
            assert frame.pts is not None
            begin = round(float(frame.pts * frame.time_base) * rate)
            if begin >= 0:
                samples[begin : begin + len(values)] = values
                end = begin + len(values)
    return samples[:end], rate


def tone_start(path: Path) -> float:
    """Seconds at which the tone sets in."""
    samples, rate = sound_of(path)
    return float(np.argmax(np.abs(samples) > 0.15)) / rate


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """make_clip(name, count, size=(48, 64), **encode_clip options): a clip in tmp_path."""

    def make(name: str, count: int, size: tuple[int, int] = (48, 64), **options: Any) -> Path:
        return encode_clip(tmp_path / name, moving_frames(count, size), **options)

    return make


@pytest.fixture
def tone_begins() -> Callable[[Path], float]:
    """Seconds at which the tone of a clip made here sets in."""
    return tone_start


@pytest.fixture
def encode() -> Callable[..., Path]:
    """encode(path, frames, **options): a clip of given frames."""
    return encode_clip


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real model of random weights, 64 px, small enough to animate in seconds."""
    import torch
    from svdp.model.adapter import Adapter, AdapterFile, save_adapter
    from svdp.model.autoencoder import TinyAutoencoder
    from svdp.model.backends.diffusers import build_transformer, save_transformer
    from svdp.model.config import AdapterConfig, BaseArchitecture

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    base = BaseArchitecture(width=64, depth=1, heads=1, table_size=24, context_dim=16, pooled_dim=16)
    config = AdapterConfig(base=base, resolution=64, segment_length=8, num_history=2, video_head_dim=32)
    save_transformer(folder / "base.safetensors", build_transformer(base), {}, torch.float32)
    info = {"sampling": {"steps": 2, "fusion": {"source": 1.0, "driving": 1.0}}}
    save_adapter(folder / "adapter.safetensors", AdapterFile(Adapter(config), info=info))
    TinyAutoencoder().save(folder / "autoencoder.safetensors")
    return folder


@dataclass(frozen=True)
class Examples:
    """Bundled example media."""

    source: Path
    driving: Path


@pytest.fixture(scope="session")
def examples(assets_dir: Path) -> Examples:
    """A portrait and a driving clip with sound."""
    return Examples(assets_dir / "examples" / "source.jpg", assets_dir / "examples" / "driving.mp4")


@pytest.fixture
def svdp(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """svdp(*arguments): the command line in this process; its exit code and what it said on standard error."""
    from svdp.cli.app import run

    def call(*arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_:
            run([str(a) for a in arguments])
        return int(exit_.value.code or 0), capsys.readouterr().err

    return call


@pytest.fixture
def animate(svdp: Callable[..., tuple[int, str]], tiny_weights: Path, examples: Examples, tmp_path: Path) -> Any:
    """animate(*options, source=..., driving=..., output=...): `svdp animate` with the tiny model."""

    def call(
        *options: str | Path,
        source: Path = examples.source,
        driving: Path = examples.driving,
        output: Path = tmp_path / "out.mp4",
    ) -> tuple[int, str]:
        weights = () if "--weights" in options else ("--weights", tiny_weights)
        return svdp("animate", "--source", source, "--driving", driving, "-o", output, *weights, *options)

    return call
