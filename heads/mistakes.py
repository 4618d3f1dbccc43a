"""How far a posed head is from the truth where a clip drives its own first frame: what training data should imitate.

Lengths are shares of the distance between the outer corners of the eyes. Every error has two parts, as a clip shows
them: what stays the same (its mean over frames) and what changes (the spread around it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .landmarks import FACE_OVAL, NUM_LANDMARKS
from .solve import FaceBasis, Views, euler_angles, lay_rigid, y_up
from .texture import EYE_OUTLINES, INNER_LIPS

OUTER_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
BROWS = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
NOSE = (1, 2, 4, 5, 6, 19, 94, 98, 168, 195, 197, 327)
REGIONS: dict[str, np.ndarray] = {
    "all": np.arange(NUM_LANDMARKS),
    "lids": np.concatenate(EYE_OUTLINES),
    "irises": np.arange(468, 478),
    "brows": np.array(BROWS),
    "nose": np.array(NOSE),
    "lips": np.concatenate([INNER_LIPS, OUTER_LIPS]),
    "outline": FACE_OVAL,
}


@dataclass(frozen=True)
class Mistake:
    """One error of a clip: `constant` (...) over the clip, and the spread of `changing` (...) around it."""

    constant: np.ndarray
    changing: np.ndarray


def split(errors: np.ndarray) -> Mistake:
    """Mean and spread over time of errors (T, ...)."""
    return Mistake(errors.mean(0), errors.std(0))


def landmark_mistakes(posed: np.ndarray, true: np.ndarray) -> dict[str, Mistake]:
    """Mean distance by region of landmarks (T, 478, 3) in the picture: of their mean places, and around them."""
    eyes = np.linalg.norm(true[:, 33, :2] - true[:, 263, :2], axis=1).mean()
    off = (posed - true)[..., :2] / eyes
    steady = off.mean(0)
    length = lambda v: np.linalg.norm(v, axis=-1)  # noqa: E731
    return {
        name: Mistake(length(steady[own]).mean(), length(off[:, own] - steady[own]).mean())
        for name, own in REGIONS.items()
    }


def view_mistakes(basis: FaceBasis, posed: np.ndarray, true: np.ndarray) -> dict[str, Mistake]:
    """How the posed landmarks (T, 478, 3) must be turned, shifted and grown to lie over the true ones.

    Angles (yaw, pitch, roll) are degrees, shifts (right, down) eye distances, growth is a logarithm; the sign is that
    of posed minus true.
    """
    here, there = y_up(posed), y_up(true)
    eyes = np.linalg.norm(here[:, 33] - here[:, 263], axis=1)[:, None, None]
    middle = here.mean(1, keepdims=True)
    needed: Views = lay_rigid(basis, (here - middle) / eyes, there)
    centre = needed.project(np.zeros((len(posed), 1, 3)))[:, 0, :2] - middle[:, 0, :2]
    return {
        "angles": split(-euler_angles(needed.rotation)),
        "shift": split(-centre / eyes[:, 0] * [1, -1]),
        "growth": split(-np.log(needed.scale / eyes[:, 0, 0])),
    }


def weight_mistakes(posed: np.ndarray, true: np.ndarray, least: float = 0.04) -> tuple[np.ndarray, np.ndarray]:
    """Gain (E,) of the posed weights (T, E) over the true ones, nan where those spread less than `least`; and the
    spread (E,) of what the gain does not explain."""
    moved = true - true.mean(0)
    strength = (moved**2).sum(0)
    gain = ((posed - posed.mean(0)) * moved).sum(0) / np.maximum(strength, 1e-9)
    rest = (posed - posed.mean(0) - gain * moved).std(0)
    return np.where(true.std(0) > least, gain, np.nan), rest
