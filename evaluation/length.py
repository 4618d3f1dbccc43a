"""What happens over the length of a video: seams where segments meet, drift away from the beginning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..signals.opencv import cv2
from .bootstrap import DRAWS
from .score import Score

WINDOW = 8  # frames at the beginning and at the end: one pose alone would decide otherwise
SETTLED = 6  # the beginning is counted from here on, so that its middle is the 10th frame
LEAST_FRAMES = SETTLED + 2 * WINDOW
LEAST_BORDERS = 5  # fewer give no interval


def seam_ratio(changes: np.ndarray, borders: Sequence[int], *, seed: int = 0) -> Score:
    """Change across segment borders over change inside segments: 1 without seams, more where segments do not join.

    changes: (T - 1,) change from frame t to t + 1, such as the mean absolute difference of the pictures. borders: first
    frames of all segments but the first. The quotient of the two means; its 95 % interval is that of the bootstrap over
    borders and over inner frames. Missing without borders, or where nothing moves inside segments.
    """
    changes = np.asarray(changes, np.float64)
    across = np.zeros(len(changes), bool)
    across[[b - 1 for b in borders if 0 < b <= len(changes)]] = True
    at_borders, inside = changes[across], changes[~across]
    if not len(at_borders) or not len(inside):
        return Score.missing("one segment only: no border to measure")
    if inside.mean() <= 1e-9:
        return Score.missing("nothing moves inside the segments")
    ratio = float(at_borders.mean() / inside.mean())
    if len(at_borders) < LEAST_BORDERS:
        return Score.of(ratio)
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(part, (DRAWS, len(part))).mean(1) for part in (at_borders, inside)]
    low, high = np.percentile(drawn[0] / np.maximum(drawn[1], 1e-9), [2.5, 97.5])
    return Score.of(ratio, float(low), float(high))


def kept_share(values: np.ndarray) -> Score:
    """How much of a similarity (T,) is left at the end: its mean over the last WINDOW frames over that around frame 10.

    1: nothing lost. Frames that are nan are left out. Missing for videos under LEAST_FRAMES, or where the beginning
    has no similarity to lose (0 or less).
    """
    values = np.asarray(values, np.float64)
    if len(values) < LEAST_FRAMES:
        return Score.missing(f"drift needs {LEAST_FRAMES} frames, got {len(values)}")
    begin, end = (part[np.isfinite(part)] for part in (values[SETTLED : SETTLED + WINDOW], values[-WINDOW:]))
    if not len(begin):
        return Score.missing("no face at the beginning")
    if begin.mean() <= 0:
        return Score.missing("no likeness at the beginning")
    if not len(end):
        return Score.missing("no face at the end", counted=0.0)
    return Score.of(float(end.mean() / begin.mean()))


def colour_drift(colours: np.ndarray) -> Score:
    """Distance of the mean colour at the end from that around frame 10, in CIELAB (Delta E, CIE 1976); 2 can be seen.

    colours: (T, 3) mean colours, `mean_lab`. Missing for videos under LEAST_FRAMES.
    """
    if len(colours) < LEAST_FRAMES:
        return Score.missing(f"drift needs {LEAST_FRAMES} frames, got {len(colours)}")
    begin, end = colours[SETTLED : SETTLED + WINDOW].mean(0), colours[-WINDOW:].mean(0)
    return Score.of(float(np.linalg.norm(end - begin)))


def mean_lab(picture: np.ndarray) -> np.ndarray:
    """(3,) mean CIELAB colour (L 0 to 100) of an (H, W, 3) uint8 sRGB picture."""
    return cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3).mean(0)
