"""Fit the head model to the MediaPipe landmarks of a picture: identity, expression and a scaled orthographic camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .landmarks import LandmarkTable
from .model import HeadModel

# MediaPipe's counterpart of each of the 68 points: used before there is a table of correspondences
MEDIAPIPE68 = np.array(
    (162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389, 71, 63, 105, 66, 107, 336, 296,
     334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305, 33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
     61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)
)  # fmt: skip
FLIP = np.array([1.0, -1.0, 1.0], np.float32)  # head space is y up, pictures are y down
DEPTH_WEIGHT = 0.3  # MediaPipe's z is less sure than its x and y
ROUNDS = 8


@dataclass(frozen=True)
class Camera:
    """Scaled orthographic view: pixels = FLIP * scale * (rotation @ head) + offset; z grows towards the viewer."""

    rotation: np.ndarray  # (3, 3)
    scale: float  # pixels per centimetre
    offset: np.ndarray  # (3,) pixels

    @property
    def yaw(self) -> float:
        """Degrees by which the head is turned, as in FaceTrack.euler."""
        return float(np.degrees(np.arctan2(self.rotation[0, 2], self.rotation[2, 2])))

    def project(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) head space -> (..., 3) float32 pixels."""
        return (FLIP * (self.scale * (points @ self.rotation.T)) + self.offset).astype(np.float32)

    def then(self, affine: np.ndarray) -> Camera:
        """This view followed by a similarity in the picture: `affine` (2, 3) without rotation."""
        factor = float(affine[0, 0])
        offset = np.array([*(affine[:, :2] @ self.offset[:2] + affine[:, 2]), factor * self.offset[2]])
        return Camera(self.rotation, self.scale * factor, offset)


@dataclass(frozen=True)
class HeadFit:
    """Head model weights and camera that explain one picture; error is relative to the distance between the eyes."""

    identity: np.ndarray  # (100,)
    expression: np.ndarray  # (53,)
    camera: Camera
    error: float


def rotation_matrix(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3) head rotation Ry(yaw) Rx(pitch) Rz(roll) from degrees, as FaceTrack.euler has them."""
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (about_y @ about_x @ about_z).astype(np.float32)


def align(points: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Camera:
    """The similarity that takes points (N, 3) to targets (N, 3, y up) in weighted least squares (Umeyama 1991)."""
    share = weights / weights.sum()
    centre, goal = share @ points, share @ targets
    p, q = points - centre, targets - goal
    u, singular, vt = np.linalg.svd((q * share[:, None]).T @ p)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ np.diag(signs) @ vt
    scale = float((singular * signs).sum() / (share @ (p**2).sum(1)))
    return Camera(rotation, scale, FLIP * (goal - scale * rotation @ centre))


def fit_head(model: HeadModel, landmarks: np.ndarray, table: LandmarkTable | None) -> HeadFit:
    """Fit to landmarks (478, 3) in pixels (x right, y down, z as MediaPipe has it: smaller is nearer).

    Alternates between the camera (closed form) and a ridge regression of identity and expression weights. With no
    `table` only 68 points are used.
    """
    targets = landmarks.astype(np.float64) * [1, -1, -1]
    if table is None:
        pick = lambda array: array[..., model.landmarks68, :]  # noqa: E731
        targets, weights = targets[MEDIAPIPE68], np.where(np.arange(68) < 17, 0.3, 1.0)
    else:
        pick = lambda array: table.locate(array)[..., table.face, :]  # noqa: E731
        targets, weights = targets[table.face], table.weights[table.face]
    neutral, shapes = pick(model.neutral), np.concatenate([pick(model.identity), pick(model.expression)])
    coefficients = np.zeros(len(shapes))
    camera = align(neutral, targets, weights)
    for _ in range(ROUNDS):
        coefficients = _solve_shapes(neutral, shapes, targets, weights, camera, len(model.identity))
        camera = align(neutral + np.tensordot(coefficients, shapes, 1), targets, weights)
    fitted = camera.project(neutral + np.tensordot(coefficients, shapes, 1))[:, :2] * FLIP[:2]
    eyes = np.linalg.norm(landmarks[33, :2] - landmarks[263, :2])
    error = float(np.linalg.norm(fitted - targets[:, :2], axis=1).mean() / eyes)
    split = len(model.identity)
    return HeadFit(coefficients[:split].astype(np.float32), coefficients[split:].astype(np.float32), camera, error)


def _solve_shapes(
    neutral: np.ndarray, shapes: np.ndarray, targets: np.ndarray, weights: np.ndarray, camera: Camera, split: int
) -> np.ndarray:
    """Ridge regression of the shape weights with the camera held; expressions stay in 0..1."""
    axes = np.array([1, 1, DEPTH_WEIGHT])
    scale = (weights[:, None] * axes).reshape(-1)
    turned = camera.scale * (shapes @ camera.rotation.T)
    jacobian = turned.reshape(len(shapes), -1).T * scale[:, None]
    offset = FLIP * camera.offset
    residual = (targets - (camera.scale * (neutral @ camera.rotation.T) + offset)).reshape(-1) * scale
    strength = 3 * camera.scale**2 * len(neutral) / 68
    prior = np.where(np.arange(len(shapes)) < split, strength * 0.35**2, strength * 0.5**2)
    solution = np.linalg.solve(jacobian.T @ jacobian + np.diag(prior), jacobian.T @ residual)
    solution[split:] = np.clip(solution[split:], 0, 1)
    return solution
