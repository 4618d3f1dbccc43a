"""Where MediaPipe's 478 landmarks lie on the head model's mesh: exact landmarks of every render, no detector needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .model import HeadModel, eye_centre
from .raster import rasterise

TABLE = Path(__file__).with_name("landmark_table.npz")
NUM_LANDMARKS, NUM_FACE = 478, 468  # the last ten are the irises
IRISES = {"M_ScleraRight": range(468, 473), "M_ScleraLeft": range(473, 478)}  # centre, then four on the rim
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
        np.savez_compressed(path, vertices=self.vertices, barycentric=self.barycentric)


def load_table(path: Path = TABLE) -> LandmarkTable:
    """Read a table that `save` wrote (by default the one that ships with the package)."""
    with np.load(path) as data:
        return LandmarkTable(data["vertices"], data["barycentric"])


def make_table(model: HeadModel, screen: np.ndarray, landmarks: np.ndarray, size: int) -> LandmarkTable:
    """Look up the landmarks (478, 3), detected in a render of the neutral head, on the mesh.

    Args:
        screen: (V, 3) the neutral head's vertices in that render, pixels. size: side of the render in pixels.

    A landmark that misses the face takes the nearest pixel of the face's skin.
    """
    skin = model.triangles[model.material == model.materials.index("M_Face")]
    index, weights, _ = rasterise(screen, skin, size, size)
    rows, columns = np.nonzero(index >= 0)
    centres = np.stack([columns, rows], 1) + 0.5
    vertices = np.zeros((NUM_LANDMARKS, 3), np.int32)
    barycentric = np.zeros((NUM_LANDMARKS, 3), np.float32)
    for n in range(NUM_FACE):
        nearest = int(((centres - landmarks[n, :2]) ** 2).sum(1).argmin())
        row, column = rows[nearest], columns[nearest]
        w1, w2 = weights[row, column]
        vertices[n], barycentric[n] = skin[index[row, column]], (1 - w1 - w2, w1, w2)
    for name, numbers in IRISES.items():
        for n, vertex in zip(numbers, _iris_vertices(model, name), strict=True):
            vertices[n], barycentric[n] = vertex, (1, 0, 0)
    return LandmarkTable(vertices, barycentric)


def _iris_vertices(model: HeadModel, material: str) -> list[int]:
    """Vertices of one eyeball at the pupil and on the iris's rim, in MediaPipe's order: right, top, left, bottom."""
    own = model.part(material)
    axis = model.neutral[own] - eye_centre(model.neutral[own])
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    c, s = np.cos(IRIS_ANGLE), np.sin(IRIS_ANGLE)
    aims = np.array([(0, 0, 1), (s, 0, c), (0, s, c), (-s, 0, c), (0, -s, c)])
    return [int(own[(axis @ aim).argmax()]) for aim in aims]
