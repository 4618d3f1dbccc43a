"""Where MediaPipe's 478 landmarks lie on the head model's mesh: exact landmarks of every render, no detector needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .model import BUNDLED, HeadModel, eye_centre, load_head_model
from .raster import rasterise

TABLE = Path(__file__).with_name("landmark_table.npz")  # for ICT-FaceKit Light
BUNDLED_TABLE = BUNDLED.with_name("makehuman_landmarks.npz")
NUM_LANDMARKS, NUM_FACE = 478, 468  # the last ten are the irises
IRISES = {"M_ScleraRight": range(468, 473), "M_ScleraLeft": range(473, 478)}  # centre, then four on the rim
LIPS = np.array(
    (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375, 78, 191, 80, 81, 82, 13,
     312, 311, 310, 415, 308, 95, 88, 178, 87, 14, 317, 402, 318, 324, 76, 62, 184, 183, 74, 42, 73, 41, 72, 38, 11, 12,
     302, 268, 303, 271, 304, 272, 408, 407, 306, 292, 77, 96, 90, 89, 180, 179, 85, 86, 16, 15, 315, 316, 404, 403,
     320, 319, 307, 325)
)  # fmt: skip
IRIS_ANGLE = 0.385  # radians off the optical axis where the painted iris ends
FACE_OVAL = np.array(
    (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
     136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
)  # fmt: skip


@dataclass(frozen=True)
class LandmarkTable:
    """Three vertices and their weights for each landmark (indices of `load_head_model`'s vertices)."""

    vertices: np.ndarray  # (478, 3) int32
    barycentric: np.ndarray  # (478, 3) float32, rows sum to 1
    num_vertices: int  # of the head model that the table belongs to

    @property
    def face(self) -> np.ndarray:
        """Landmarks used for fitting: all but the irises, which gaze moves."""
        return np.arange(NUM_FACE)

    @property
    def weights(self) -> np.ndarray:
        """(478,) trust in a landmark: less along the outline, where the tracker slides."""
        weights = np.ones(NUM_LANDMARKS)
        weights[FACE_OVAL] = 0.4
        return weights

    def locate(self, points: np.ndarray) -> np.ndarray:
        """Vertices (..., V, 3) -> landmarks (..., 478, 3)."""
        return np.einsum("...lcd,lc->...ld", points[..., self.vertices, :], self.barycentric)

    def save(self, path: Path) -> None:
        """Write as npz."""
        np.savez_compressed(
            path, vertices=self.vertices, barycentric=self.barycentric, num_vertices=np.array(self.num_vertices)
        )


def load_table(path: Path = TABLE) -> LandmarkTable:
    """Read a table that `save` wrote (by default the one for ICT-FaceKit Light)."""
    with np.load(path) as data:
        return LandmarkTable(data["vertices"], data["barycentric"], int(data["num_vertices"]))


def load_bundled() -> tuple[HeadModel, LandmarkTable]:
    """The bundled head and its table."""
    return load_head_model(BUNDLED), load_table(BUNDLED_TABLE)


def make_table(
    model: HeadModel, renders: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], size: int
) -> LandmarkTable:
    """Look up landmarks that were detected in renders of the head on its mesh.

    Args:
        renders: (screen, landmarks, numbers) each: the head's vertices (V, 3) in a render of `size` pixels, the
            landmarks (478, 3) detected there, and which of them to take from it. Lips need a render with the mouth
            open, otherwise both fall on one lip. Later renders win.

    A landmark that misses the face takes the nearest pixel of the face's skin.
    """
    vertices = np.zeros((NUM_LANDMARKS, 3), np.int32)
    barycentric = np.zeros((NUM_LANDMARKS, 3), np.float32)
    skin = model.triangles[model.material == model.materials.index("M_Face")]
    for screen, landmarks, numbers in renders:
        index, weights, _ = rasterise(screen, skin, size, size)
        rows, columns = np.nonzero(index >= 0)
        centres = np.stack([columns, rows], 1) + 0.5
        for n in numbers:
            nearest = int(((centres - landmarks[n, :2]) ** 2).sum(1).argmin())
            row, column = rows[nearest], columns[nearest]
            w1, w2 = weights[row, column]
            vertices[n], barycentric[n] = skin[index[row, column]], (1 - w1 - w2, w1, w2)
    for name, numbers in IRISES.items():
        for n, vertex in zip(numbers, _iris_vertices(model, name), strict=True):
            vertices[n], barycentric[n] = vertex, (1, 0, 0)
    return LandmarkTable(vertices, barycentric, model.num_vertices)


def _iris_vertices(model: HeadModel, material: str) -> list[int]:
    """Vertices of one eyeball at the pupil and on the iris's rim, in MediaPipe's order: right, top, left, bottom."""
    own = model.part(material)
    axis = model.neutral[own] - eye_centre(model.neutral[own])
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    c, s = np.cos(IRIS_ANGLE), np.sin(IRIS_ANGLE)
    aims = np.array([(0, 0, 1), (s, 0, c), (0, s, c), (-s, 0, c), (0, -s, c)])
    return [int(own[(axis @ aim).argmax()]) for aim in aims]
