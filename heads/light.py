"""Light on skin and directions of eyes: what shading needs to know of a moved head."""

from __future__ import annotations

import numpy as np

from .fit import FLIP, Camera
from .model import HeadModel
from .texture import Anatomy

LIGHT = np.array([0.25, -0.35, 0.9], np.float32)  # towards the light, on screen
AMBIENT = 0.6
DIMMEST, BRIGHTEST = 0.75, 1.2  # how far a turn may change the light on skin


def relight(parts: Anatomy, now: Camera, then: Camera) -> np.ndarray:
    """(V,) how much brighter the skin is than in the photo, now that the head has turned (Lambert and ambient).

    Without it a turned head keeps the shading of a head from the front and looks flat. The normals are an ellipsoid's,
    so noses and foreheads get no highlights, and a head that only speaks keeps the photo's light.
    """
    lambert = [
        AMBIENT + (1 - AMBIENT) * np.clip(parts.round_normals @ (camera.rotation.T @ (FLIP * LIGHT)), 0, 1)
        for camera in (now, then)
    ]
    return np.clip(lambert[0] / lambert[1], DIMMEST, BRIGHTEST).astype(np.float32)


def eye_directions(model: HeadModel, eye_angle: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(V, 4) float32: unit direction from the centre of the eyeball on screen, and the angle off the eye's axis."""
    eye = np.zeros((model.num_vertices, 4), np.float32)
    for ball in model.eyeballs:
        low, high = points[ball].min(0), points[ball].max(0)
        eye[ball, :3] = (points[ball] - (low + high) / 2) / ((high - low)[:2].mean() / 2)
    eye[:, 3] = eye_angle
    return eye


def fall(limits: tuple[float, float], value):
    """1 up to the lower limit, 0 from the upper one on, smooth between."""
    share = np.clip((limits[1] - value) / (limits[1] - limits[0]), 0, 1)
    return share * share * (3 - 2 * share)
