"""Filling gaps in a track and taking out its jitter. Arrays have time first."""

from dataclasses import dataclass

import numpy as np


def fill_missing(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Straight lines between the frames that are present; before the first and after the last, those are held.

    values (T, ...) with anything in the missing rows, present (T,) bool with at least one True.
    """
    known = np.flatnonzero(present)
    frames = np.arange(len(values))
    after = np.searchsorted(known, frames)
    left, right = known[np.maximum(after - 1, 0)], known[np.minimum(after, len(known) - 1)]
    weight = np.clip((frames - left) / np.maximum(right - left, 1), 0, 1)
    weight = weight.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
    filled = values[left] * (1 - weight) + values[right] * weight
    return np.where(present.reshape(weight.shape), values, filled)


def nearest_rotations(matrices: np.ndarray) -> np.ndarray:
    """(T, 4, 4) whose upper left 3x3 is made the closest rotation, times its mean scale (interpolation shears it)."""
    u, sizes, vt = np.linalg.svd(matrices[:, :3, :3])
    turned = (u * np.sign(np.linalg.det(u @ vt))[:, None, None] ** [0, 0, 1]) @ vt
    result = matrices.copy()
    result[:, :3, :3] = turned * sizes.mean(1)[:, None, None]
    return result


@dataclass(frozen=True, kw_only=True)
class OneEuro:
    """One-Euro filter (Casiez et al., CHI 2012): strong smoothing at rest, little in fast motion.

    The clip is known as a whole, so the filter runs forwards and backwards and the mean is taken: the lags cancel.
    """

    min_cutoff: float = 1.0  # Hz at rest; lower is smoother
    beta: float = 15.0  # Hz added per unit of speed (one unit: one `scale` per second)
    derivative_cutoff: float = 2.0  # Hz, for the speed itself

    def __post_init__(self):
        if self.min_cutoff <= 0 or self.derivative_cutoff <= 0 or self.beta < 0:
            raise ValueError(f"cutoffs must be above 0 and beta at least 0, got {self}")

    def __call__(self, values: np.ndarray, fps: float, scale: float = 1.0) -> np.ndarray:
        """Smooth (T, ...) values whose natural unit of length is `scale` (for landmarks: the eye distance)."""
        forwards = self._run(values, fps, scale)
        backwards = self._run(values[::-1], fps, scale)[::-1]
        return ((forwards + backwards) / 2).astype(values.dtype)

    def _run(self, values: np.ndarray, fps: float, scale: float) -> np.ndarray:
        smooth = np.empty(values.shape, np.float64)
        speed = np.zeros(values.shape[1:])
        speed_weight = _weight(self.derivative_cutoff, fps)
        for t, value in enumerate(values.astype(np.float64)):
            before = smooth[t - 1] if t else value
            speed = speed + speed_weight * ((value - before) * fps / scale - speed)
            smooth[t] = before + _weight(self.min_cutoff + self.beta * np.abs(speed), fps) * (value - before)
        return smooth


class OneEuroStream:
    """The same filter for values that come one by one: forwards alone, so it lags a little behind quick motion."""

    def __init__(self, settings: OneEuro | None = None):
        self._settings = settings or OneEuro()
        self._last: np.ndarray | None = None
        self._speed: np.ndarray | float = 0.0

    def __call__(self, value: np.ndarray, seconds: float, scale: float = 1.0) -> np.ndarray:
        """The smoothed value, `seconds` after the last one, in the type of `value`; the first one is itself."""
        new, fps, cfg = value.astype(np.float64), 1 / max(seconds, 1e-3), self._settings
        before = new if self._last is None else self._last
        self._speed = self._speed + _weight(cfg.derivative_cutoff, fps) * ((new - before) * fps / scale - self._speed)
        cutoff = cfg.min_cutoff + cfg.beta * np.abs(self._speed)
        self._last = before + _weight(cutoff, fps) * (new - before)
        return self._last.astype(value.dtype)


def _weight(cutoff, fps: float):
    """Share of the new value in a first-order low pass of `cutoff` Hz at `fps`."""
    ratio = 2 * np.pi * cutoff / fps
    return ratio / (ratio + 1)
