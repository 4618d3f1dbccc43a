"""Sound kept, lost, shortened, shifted and replaced."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from svdp.errors import MediaError
from svdp.evaluation.sound import RATE, SoundCheck, check_sound, read_sound

SECONDS = 2


def syllables(seed: int = 0, seconds: float = SECONDS) -> np.ndarray:
    """Noise whose loudness changes every 120 ms, as speech does."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.random(int(seconds / 0.12) + 1), int(0.12 * RATE))[: int(seconds * RATE)]
    return (loudness * rng.normal(0, 0.2, len(loudness))).clip(-1, 1).astype(np.float32)


def write(path: Path, samples: np.ndarray | None) -> Path:
    """Ten grey frames a second, and the samples as AAC."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=10)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio: Any = None if samples is None else container.add_stream("aac", rate=RATE, layout="mono")
        for _ in range(10 * SECONDS):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8), format="rgb24")))
        container.mux(video.encode(None))
        if samples is not None:
            for start in range(0, len(samples), 1024):
                frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def check(tmp_path: Path, result: np.ndarray | None, driver: np.ndarray | None, begin: float = 0) -> SoundCheck:
    files = write(tmp_path / "result.mp4", result), write(tmp_path / "driver.mp4", driver)
    return check_sound(*files, begin=Fraction(begin), seconds=SECONDS - Fraction(begin))


def test_the_same_sound_is_kept(tmp_path: Path):
    found = check(tmp_path, syllables(), syllables())
    assert found.kept
    assert found.seconds == pytest.approx(SECONDS, abs=0.1)
    assert found.loudness > 0.98


def test_a_part_of_the_driver_is_compared_from_where_it_begins(tmp_path: Path):
    assert check(tmp_path, syllables()[RATE // 2 :], syllables(), begin=0.5).kept
    assert not check(tmp_path, syllables(), syllables(), begin=0.5).kept


@pytest.mark.parametrize(
    "result",
    [None, syllables(seconds=1.5), np.roll(syllables(), RATE // 10), syllables(seed=1), 0 * syllables()],
    ids=["none", "short", "100 ms late", "another", "silence"],
)
def test_other_sound_is_not(tmp_path: Path, result: np.ndarray | None):
    assert not check(tmp_path, result, syllables()).kept


def test_silence_may_stay_silent_and_no_sound_needs_none(tmp_path: Path):
    assert check(tmp_path, 0 * syllables(), 0 * syllables()).kept
    assert check(tmp_path, None, None).kept
    assert not check(tmp_path, syllables(), None).kept


def test_not_a_video(tmp_path: Path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(MediaError, match=r"text\.mp4"):
        read_sound(path, Fraction(0), Fraction(1))
