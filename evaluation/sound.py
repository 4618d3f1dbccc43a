"""Is the driver's sound still there, for as long, and at the same time?"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from ..errors import MediaError
from .correlation import pearson

RATE = 16000  # samples a second at which sounds are compared
WINDOW = 320  # samples of a loudness value: 20 ms
ENDS_WITHIN = 0.1  # seconds: AAC frames (21 ms) and its run-in make ends differ by less
SAME_FROM = 0.9  # correlation of loudness; speech shifted by 100 ms is far below
LEAST_WINDOWS = 25  # half a second; less is mostly the encoder's run-in, and not compared


@dataclass(frozen=True, kw_only=True)
class SoundCheck:
    """The sound of a result against that of its driver over the time of the frames."""

    expected: bool  # the driver has sound during its frames
    present: bool  # the result has a sound track with samples
    expected_seconds: float
    seconds: float
    loudness: float  # correlation over time of 20 ms windows; nan if both are silent or under half a second

    @property
    def kept(self) -> bool:
        """There, as long (ENDS_WITHIN) and the same (SAME_FROM, or nothing to compare) as expected; none if none is."""
        if not self.expected:
            return not self.present
        same = bool(np.isnan(self.loudness)) or self.loudness >= SAME_FROM
        return self.present and same and abs(self.seconds - self.expected_seconds) <= ENDS_WITHIN


def check_sound(result: Path, driver: Path, begin: Fraction, seconds: Fraction) -> SoundCheck:
    """Compare the result's sound from 0 with the driver's from `begin`, for `seconds` of frames.

    Raises MediaError if a file cannot be read.
    """
    wanted = read_sound(driver, begin, seconds)
    found = read_sound(result, Fraction(0), seconds)  # the driver's sound may go on after its last frame
    length = min(len(wanted), len(found))
    loud = [_loudness(samples[:length]) for samples in (wanted, found)]
    return SoundCheck(
        expected=len(wanted) > 0,
        present=len(found) > 0,
        expected_seconds=len(wanted) / RATE,
        seconds=len(found) / RATE,
        loudness=_same(*loud),
    )


def read_sound(path: Path, begin: Fraction, seconds: Fraction) -> np.ndarray:
    """(n,) float32 mono at RATE from `begin` on, at most `seconds`; empty without a sound track. Raises MediaError."""
    try:
        with av.open(str(path)) as container:
            return _placed(container, begin, seconds) if container.streams.audio else np.zeros(0, np.float32)
    except (FFmpegError, OSError) as error:
        raise MediaError(f"the sound of {path} cannot be read ({error}): check that the file plays") from error


def _placed(container: Any, begin: Fraction, seconds: Fraction) -> np.ndarray:
    stream = container.streams.audio[0]
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    pieces: list[tuple[int, np.ndarray]] = []
    for frame in container.decode(stream):
        for piece in resampler.resample(frame):
            if piece.pts is not None:
                start = round((piece.pts * _fraction(piece.time_base) - begin) * RATE)
                pieces.append((start, piece.to_ndarray().reshape(-1)))
        if pieces and pieces[-1][0] > seconds * RATE:
            break
    last = max((start + len(samples) for start, samples in pieces), default=0)
    total = max(0, min(last, round(seconds * RATE)))
    sound = np.zeros(total, np.float32)
    for start, samples in pieces:
        part = samples[max(0, -start) : max(0, total - start)]
        sound[max(0, start) : max(0, start) + len(part)] = part
    return sound


def _fraction(rational: Any) -> Fraction:
    """PyAV's rational, whose type differs between versions."""
    return Fraction(int(rational.numerator), int(rational.denominator))


def _loudness(samples: np.ndarray) -> np.ndarray:
    """(windows,) root mean square of 20 ms windows."""
    windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return np.sqrt((windows.astype(np.float64) ** 2).mean(1))


def _same(wanted: np.ndarray, found: np.ndarray) -> float:
    if len(wanted) < LEAST_WINDOWS:
        return float("nan")
    silent = [bool(series.max() < 1e-3) for series in (wanted, found)]
    if any(silent):
        return float("nan") if all(silent) else 0.0
    return float(pearson(wanted, found))
