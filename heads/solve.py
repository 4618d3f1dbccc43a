"""Least squares for heads seen at MediaPipe's landmarks: identity, expressions and views of many frames in one step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..signals.track import BLENDSHAPES
from .fit import rotation_matrix
from .landmarks import NUM_FACE, LandmarkTable
from .model import HeadModel

DEPTH_WEIGHT = 0.4  # MediaPipe's z is less sure than its x and y
NOISE = 0.7  # centimetres: error of a landmark that counts; more than it seems, as neighbours err alike
EXPRESSION_SPREAD = 0.3  # how far a weight strays from what the blendshapes say
IDENTITY_SPREAD = 0.45
GAIN = 0.8  # the linear map from blendshapes exaggerates
HELD = 1e-3  # spread of a weight that landmarks cannot tell
GAZE_UP = 0.18  # rendered eyes that look straight ahead are seen to look down by so much
EYE_CORNERS = ((362, 263), (33, 133))  # left and right eye, as all pairs of sides here
LIDS = (((386, 374), (385, 380), (387, 373)), ((159, 145), (158, 153), (160, 144)))  # upper and lower
LIPS = (((13, 14), (82, 87), (312, 317)), ((81, 178), (80, 88)), ((311, 402), (310, 318)))  # middle, right, left
MOUTH_CORNERS = (61, 291)


@dataclass(frozen=True)
class FaceBasis:
    """A head model seen at its landmarks, in centimetres of head space; make it once, with `face_basis`."""

    neutral: np.ndarray  # (478, 3)
    identity: np.ndarray  # (I, 478, 3)
    expression: np.ndarray  # (E, 478, 3)
    weights: np.ndarray  # (468,) trust in a landmark of the face
    names: tuple[str, ...]  # of the expressions
    prior: np.ndarray  # (52, E) from blendshapes to expected weights
    mirror: np.ndarray  # (478,) the landmark on the other side

    @property
    def gaze(self) -> np.ndarray:
        """Numbers of the weights that turn the eyes."""
        return np.array([n for n, name in enumerate(self.names) if name.startswith("eyeLook")])

    @cached_property
    def products(self) -> np.ndarray:
        """(9, K, K) sums over the face of weight * shape k's coordinate i * shape m's coordinate j; 9 pairs i, j.

        The K shapes are `shapes`. Of a turned head, products of shapes are sums of these.
        """
        parts = np.moveaxis(self.shapes.astype(np.float64), 2, 0)  # (3, K, L)
        return np.stack([(a * self.weights) @ b.T for a in parts for b in parts])

    @cached_property
    def shapes(self) -> np.ndarray:
        """(E + I, 468, 3) float32: expressions, then identities, at the landmarks of the face."""
        return np.concatenate([self.expression, self.identity])[:, :NUM_FACE].astype(np.float32)

    def person(self, identity: np.ndarray) -> np.ndarray:
        """(478, 3) landmarks of a face at rest with identity weights (I,)."""
        return self.neutral + np.tensordot(identity.astype(np.float64), self.identity, 1)

    def express(self, person: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """(T, 478, 3) the face `person` (478, 3) with weights (T, E). Irises stay where they are."""
        return person + np.tensordot(expression.astype(np.float64), self.expression, 1)

    def expect(self, blendshapes: np.ndarray) -> np.ndarray:
        """(T, E) weights that blendshapes (T, 52) announce.

        Both eyes look the same way: the mean of the two. Of children and others whose eyes are unlike its own model's,
        the detector says that they squint inwards, by up to 18 degrees each, and a portrait would show it.
        """
        expected = np.clip(blendshapes, 0, 1) @ self.prior
        for ahead, back, turned, level in (("Up", "Down", 1, GAZE_UP), ("Out", "In", -1, 0.0)):
            left, right = (
                [self.names.index(f"eyeLook{direction}_{side}") for direction in (ahead, back)] for side in "LR"
            )
            both = [expected[:, pair[0]] - expected[:, pair[1]] for pair in (left, right)]
            look = (both[0] + turned * both[1]) / 2 + level
            for pair, sign in ((left, 1), (right, turned)):
                expected[:, pair[0]], expected[:, pair[1]] = np.clip(sign * look, 0, 1), np.clip(-sign * look, 0, 1)
        return expected


@dataclass(frozen=True)
class Views:
    """Scaled orthographic views of T frames: targets (y up) = scale * rotation @ head + offset."""

    rotation: np.ndarray  # (T, 3, 3)
    scale: np.ndarray  # (T,) pixels per centimetre
    offset: np.ndarray  # (T, 3) pixels

    def project(self, points: np.ndarray) -> np.ndarray:
        """(T, L, 3) head space -> targets."""
        return self.scale[:, None, None] * (points @ self.rotation.transpose(0, 2, 1)) + self.offset[:, None]

    def back(self, targets: np.ndarray) -> np.ndarray:
        """(T, L, 3) targets -> head space."""
        return ((targets - self.offset[:, None]) / self.scale[:, None, None]) @ self.rotation

    def moved(self, step: np.ndarray) -> Views:
        """The views after a turn (radians about x, y, z), a shift (centimetres) and a growth (log), (T, 7)."""
        return Views(
            _rotations(step[:, :3]) @ self.rotation,
            self.scale * np.exp(step[:, 6]),
            self.offset + self.scale[:, None] * step[:, 3:6],
        )


def face_basis(model: HeadModel, table: LandmarkTable) -> FaceBasis:
    """Look the model up at the landmarks."""
    neutral = table.locate(model.neutral).astype(np.float64)
    prior = model.from_blendshapes(tuple(BLENDSHAPES)).astype(np.float64)
    prior *= [1.0 if name.startswith("eyeLook") else GAIN for name in model.names]
    across = np.linalg.norm(neutral[:, None] * [-1, 1, 1] - neutral, axis=2)
    return FaceBasis(
        neutral, table.locate(model.identity).astype(np.float64), table.locate(model.expression).astype(np.float64),
        table.weights[:NUM_FACE], model.names, prior, across.argmin(1),
    )  # fmt: skip


def y_up(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks as MediaPipe has them -> targets: y up, z towards the viewer; and back."""
    return landmarks.astype(np.float64) * [1, -1, -1]


def gaps(points: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(...,) mean height of upper over lower landmarks in head space (..., 478, 3)."""
    upper, lower = np.array(pairs).T
    return (points[..., upper, 1] - points[..., lower, 1]).mean(-1)


def width(points: np.ndarray, corners: tuple[int, int]) -> np.ndarray:
    """(...,) distance of two landmarks."""
    return np.linalg.norm(points[..., corners[0], :] - points[..., corners[1], :], axis=-1)


def rotations(angles: np.ndarray) -> np.ndarray:
    """(T, 3, 3) float64 from (T, 3) degrees; see `fit.rotation_matrix`."""
    return np.stack([rotation_matrix(*a) for a in angles]).astype(np.float64)


def euler_angles(rotation: np.ndarray) -> np.ndarray:
    """(..., 3) yaw, pitch, roll in degrees of rotations (..., 3, 3), as FaceTrack.euler has them."""
    yaw = np.arctan2(rotation[..., 0, 2], rotation[..., 2, 2])
    pitch = np.arcsin(np.clip(-rotation[..., 1, 2], -1, 1))
    roll = np.arctan2(rotation[..., 1, 0], rotation[..., 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], -1))


def align(basis: FaceBasis, points: np.ndarray, targets: np.ndarray) -> Views:
    """The views that lay points (T, 478, 3) over targets (T, 478, 3): a start for `step` (Umeyama 1991)."""
    share = (basis.weights / basis.weights.sum())[:, None]
    points, targets = points[:, :NUM_FACE], targets[:, :NUM_FACE]
    centre, goal = (points * share).sum(1), (targets * share).sum(1)
    p, q = points - centre[:, None], targets - goal[:, None]
    u, singular, vt = np.linalg.svd((q * share).transpose(0, 2, 1) @ p)
    signs = np.ones_like(singular)
    signs[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * signs[:, None]) @ vt
    scale = (singular * signs).sum(1) / (share * p**2).sum((1, 2))
    return Views(rotation, scale, goal - scale[:, None] * np.einsum("tij,tj->ti", rotation, centre))


def lay_rigid(basis: FaceBasis, points: np.ndarray, targets: np.ndarray) -> Views:
    """The same by x and y first of all, as `step` weighs them."""
    views = align(basis, points, targets)
    for _ in range(3):
        turned, error = _residual(basis, points[:, :NUM_FACE], targets, views)
        local, error = _rigid(turned) * _scale(basis), error * _scale(basis)
        change = np.linalg.solve(local @ local.transpose(0, 2, 1), local @ error[..., None])
        views = views.moved(change[..., 0])
    return views


def step(
    basis: FaceBasis,
    person: np.ndarray,
    targets: np.ndarray,
    expected: np.ndarray,
    expression: np.ndarray,
    views: Views,
    identity: np.ndarray | None = None,
) -> tuple[np.ndarray, Views, np.ndarray | None]:
    """One Gauss-Newton step for the expressions and views of T frames, and for their common identity if one is given.

    Args:
        person: (478, 3) the face at rest, as of now. targets: (T, 478, 3) from `y_up`.
        expected, expression: (T, E) weights from the blendshapes, and as of now. identity: (I,) as of now.

    What the frames do not share is eliminated first, so that the step is exact for both.
    """
    frames, shapes = expression.shape
    turned, error = _residual(basis, basis.express(person, expression)[:, :NUM_FACE], targets, views)
    rows = np.concatenate([_rigid(turned), error[:, None]], 1).astype(np.float32)  # (T, 8, 3 * 468)
    among = _among(basis, rows)
    onto = _onto(basis, rows, views.rotation)
    normal, across = _normal(basis, views.rotation, shapes, identity is not None)
    normal[:, :shapes, shapes:] = onto[:, :7, :shapes].transpose(0, 2, 1)
    normal[:, shapes:, :shapes] = onto[:, :7, :shapes]
    normal[:, shapes:, shapes:] = among[:, :7, :7]
    right = np.concatenate([onto[:, 7, :shapes], among[:, 7, :7]], 1)
    precision = np.full(shapes + 7, 1e-4)
    precision[:shapes] = EXPRESSION_SPREAD**-2
    precision[basis.gaze] = HELD**-2
    normal += np.diag(precision)
    right[:, :shapes] += (expected - expression) * precision[:shapes]
    if identity is not None:
        across = np.concatenate([across, onto[:, :7, shapes:]], 1)  # (T, E + 7, I)
        solved = np.linalg.solve(normal, np.concatenate([across, right[..., None]], 2))
        own = _own(basis, views.rotation, shapes) - (across.transpose(0, 2, 1) @ solved[..., :-1]).mean(0)
        pull = onto[:, 7, shapes:].mean(0) - np.einsum("tli,tl->i", across, solved[..., -1]) / frames
        ridge = IDENTITY_SPREAD**-2
        change = np.linalg.solve(own + ridge * np.eye(len(identity)), pull - ridge * identity)
        right = right - across @ change
        identity = identity + change
    low = np.concatenate([-expression, np.full((frames, 7), -np.inf)], 1)
    high = np.concatenate([1 - expression, np.full((frames, 7), np.inf)], 1)
    found = solve_within(normal, right, low, high)
    return np.clip(expression + found[:, :shapes], 0, 1), views.moved(found[:, shapes:]), identity


def solve_within(normal: np.ndarray, right: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(T, n) solutions of normal (T, n, n) x = right (T, n) with low <= x <= high: what leaves is held at its limit."""
    found = np.linalg.solve(normal, right[..., None])[..., 0]
    for _ in range(2):
        held = (found <= low) | (found >= high)
        limit = np.where(held, np.clip(found, low, high), 0.0)
        rest = np.where(held, limit, right - (normal @ limit[..., None])[..., 0])
        mixed = normal * (~held[:, :, None] & ~held[:, None, :]) + np.eye(right.shape[1]) * held[:, :, None]
        found = np.linalg.solve(mixed, rest[..., None])[..., 0]
    return np.clip(found, low, high)


def _scale(basis: FaceBasis) -> np.ndarray:
    """(3 * 468,) by how much a coordinate counts."""
    return (np.sqrt(basis.weights)[:, None] * [1, 1, DEPTH_WEIGHT] / NOISE).reshape(-1)


def _residual(basis: FaceBasis, points: np.ndarray, targets: np.ndarray, views: Views) -> tuple[np.ndarray, np.ndarray]:
    """Points (T, 468, 3) as they are turned, and what is missing to the targets (T, 3 * 468), in centimetres."""
    turned = points @ views.rotation.transpose(0, 2, 1)
    error = (targets[:, :NUM_FACE] - views.offset[:, None]) / views.scale[:, None, None] - turned
    return turned, error.reshape(len(error), -1)


def _metric(rotation: np.ndarray) -> np.ndarray:
    """(T, 9) what two shapes' coordinates i and j count, given how heads are turned and that depth counts less."""
    seen = rotation * (np.array([1, 1, DEPTH_WEIGHT])[:, None] / NOISE)
    return (seen.transpose(0, 2, 1) @ seen).reshape(len(rotation), 9)


def _normal(basis: FaceBasis, rotation: np.ndarray, shapes: int, with_identity: bool) -> tuple[np.ndarray, np.ndarray]:
    """Normal equations (T, E + 7, E + 7) with only the expressions filled in, and their products with identities.

    The latter are (T, E, I); I is 0 if they are not asked for.
    """
    metric = _metric(rotation)
    end = None if with_identity else shapes
    products = (metric @ basis.products[:, :shapes, :end].reshape(9, -1)).reshape(len(rotation), shapes, -1)
    normal = np.zeros((len(rotation), shapes + 7, shapes + 7))
    normal[:, :shapes, :shapes] = products[..., :shapes]
    return normal, products[..., shapes:]


def _own(basis: FaceBasis, rotation: np.ndarray, shapes: int) -> np.ndarray:
    """(I, I) products of the identities, the mean over the frames."""
    return np.tensordot(_metric(rotation).mean(0), basis.products[:, shapes:, shapes:], 1)


def _among(basis: FaceBasis, rows: np.ndarray) -> np.ndarray:
    """(T, 8, 8) products of rows (T, 8, 3 * 468) in view space."""
    weighed = rows * _scale(basis).astype(np.float32)
    return (weighed @ weighed.transpose(0, 2, 1)).astype(np.float64)


def _onto(basis: FaceBasis, rows: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """(T, 8, E + I) products of rows (T, 8, 3 * 468) in view space with the shapes as they are turned."""
    weighed = (rows * (_scale(basis) ** 2).astype(np.float32)).reshape(len(rows), -1, 3)
    back = (weighed @ rotation.astype(np.float32)).reshape(len(rows) * 8, -1)
    return (back @ basis.shapes.reshape(len(basis.shapes), -1).T).reshape(len(rows), 8, -1).astype(np.float64)


def _rigid(turned: np.ndarray) -> np.ndarray:
    """(T, 7, 3 L): how points (T, L, 3) move by a turn about x, y, z, a shift along them, and growth."""
    x, y, z = np.moveaxis(turned, 2, 0)
    none, one = np.zeros_like(x), np.ones_like(x)
    columns = [(none, -z, y), (z, none, -x), (-y, x, none), (one, none, none), (none, one, none), (none, none, one)]
    columns.append((x, y, z))
    return np.stack([np.stack(c, 2).reshape(len(x), -1) for c in columns], 1)


def _rotations(vectors: np.ndarray) -> np.ndarray:
    """(T, 3, 3) rotations about vectors (T, 3) by their length in radians (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None] + 1e-12
    x, y, z = vectors.T
    none = np.zeros_like(x)
    cross = np.stack([none, -z, y, z, none, -x, -y, x, none], 1).reshape(-1, 3, 3) / angle
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
