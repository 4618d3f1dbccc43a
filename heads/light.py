"""Light on skin and directions of eyes: what shading needs to know of a moved head, and of the photo's own eyes."""

from __future__ import annotations

import numpy as np

from .fit import FLIP, Camera, HeadFit
from .landmarks import LandmarkTable
from .model import HeadModel, eye_centre
from .texture import Anatomy

LIGHT = np.array([0.25, -0.35, 0.9], np.float32)  # towards the light, on screen
AMBIENT = 0.6
DIMMEST, BRIGHTEST = 0.75, 1.2  # how far a turn may change the light on skin
FURTHEST_LOOK = 0.7  # sine of how far an eye may look aside in a photo


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


def aim_eyes(model: HeadModel, table: LandmarkTable, fit: HeadFit, landmarks: np.ndarray) -> np.ndarray:
    """(V, 3) pixels: the fitted head with each eyeball turned so that its iris lies on the photo's; landmarks (478, 3).

    So the photo's own iris turns with the eyeball. A fit may know the direction of the eyes less well.
    """
    person = model.person(fit.identity)
    head = model.express(person, fit.expression[None])[0]
    for ball, pupil in zip(model.eyeballs, (473, 468), strict=True):
        centre = eye_centre(person[ball])
        axis = (table.locate(person)[pupil] - centre).astype(np.float64)
        radius = np.linalg.norm(axis)
        middle = fit.camera.project(centre)
        across = (landmarks[pupil, :2] - middle[:2]) * FLIP[:2] / (fit.camera.scale * radius)
        length = np.linalg.norm(across)
        across = across * min(1, FURTHEST_LOOK / max(length, 1e-6))
        aim = fit.camera.rotation.T @ np.array([*across, np.sqrt(1 - (across**2).sum())])
        head[ball] = (person[ball] - centre) @ turn_between(axis / radius, aim).T + centre
    return fit.camera.project(head)


def turn_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(3, 3) the shortest rotation that takes the unit vector a to b, less than half a turn away (Rodrigues)."""
    x, y, z = np.cross(a, b)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return (np.eye(3) + cross + cross @ cross / (1 + a @ b)).astype(np.float32)


def fall(limits: tuple[float, float], value):
    """1 up to the lower limit, 0 from the upper one on, smooth between."""
    share = np.clip((limits[1] - value) / (limits[1] - limits[0]), 0, 1)
    return share * share * (3 - 2 * share)
