"""What a driver does, as any head can do it: expression, gaze and rotation fitted to landmarks on the driver's own face.

The first `STRETCH` frames tell who the driver is; each frame is then fitted on its own, so that a preview, a live picture
and the whole clip agree. The blendshapes say what to expect, the landmarks decide. Motion is smoothed by `settle`, which
looks one frame ahead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..signals.track import BLENDSHAPES
from .fit import FLIP, Camera, HeadFit
from .landmarks import NUM_FACE, LandmarkTable
from .model import HeadModel

STRETCH = 48  # frames that tell the driver's looks, and the scale at which the head is placed
FIRST_ROUNDS, ROUNDS = 4, 3  # Gauss-Newton steps for the stretch and for a frame
AT_ONCE = 32  # frames whose equations are in memory together
DEPTH_WEIGHT = 0.4  # MediaPipe's z is less sure than its x and y
NOISE = 0.7  # centimetres: error of a landmark that counts; less than it seems, as neighbours err alike
EXPRESSION_SPREAD = 0.3  # how far a weight strays from what the blendshapes say
IDENTITY_SPREAD = 0.45
GAIN = 0.8  # blendshapes exaggerate
LEFT_DEPTH, SYM = 0.0, True
GAZE_UP = 0.18  # eyes of rendered heads that look straight ahead are seen to look down by so much
HELD = 1e-3  # spread of what is known already
EYE_CORNERS = {"L": (362, 263), "R": (33, 133)}
LIDS = {"L": ((386, 374), (385, 380), (387, 373)), "R": ((159, 145), (158, 153), (160, 144))}  # upper, lower
LIPS = (((13, 14), (82, 87), (312, 317)), ((81, 178), (80, 88)), ((311, 402), (310, 318)))  # middle, right, left
MOUTH_CORNERS = (61, 291)


@dataclass(frozen=True)
class FaceBasis:
    """The head model seen at the landmarks; made once for a model."""

    neutral: np.ndarray  # (478, 3) centimetres
    identity: np.ndarray  # (I, 478, 3)
    expression: np.ndarray  # (E, 478, 3)
    weights: np.ndarray  # (468,) trust in a landmark of the face
    names: tuple[str, ...]  # of the expressions
    prior: np.ndarray  # (52, E) from blendshapes to expected weights
    mirror: np.ndarray  # (478,) the landmark on the other side

    @property
    def gaze(self) -> np.ndarray:
        """Numbers of the expressions that the irises tell."""
        return np.array([n for n, name in enumerate(self.names) if name.startswith("eyeLook")])


@dataclass(frozen=True)
class Likeness:
    """Who the driver is."""

    identity: np.ndarray  # (I,)
    neutral: np.ndarray  # (478, 3) landmarks of the face at rest, centimetres; what no identity explains included
    lids: np.ndarray  # (2,) how far the left and the right eye are open at rest, as share of their width


@dataclass(frozen=True)
class DriverMotion:
    """What the driver does in T frames, freed from the driver's looks."""

    expression: np.ndarray  # (T, E) weights in 0..1, as HeadModel.names
    angles: np.ndarray  # (T, 3) degrees: yaw, pitch, roll in the crop, as FaceTrack.euler
    lids: np.ndarray  # (T, 2) left and right eye: 0 closed, 1 as open as at rest
    lips: np.ndarray  # (T, 3) gap in the middle, right and left; share of the mouth's width at rest, 0 closed
    landmarks: np.ndarray  # (T, 478, 3) pixels of the crop
    likeness: Likeness

    def __len__(self) -> int:
        return len(self.angles)


def face_basis(model: HeadModel, table: LandmarkTable) -> FaceBasis:
    """Look the model up at the landmarks."""
    neutral = table.locate(model.neutral).astype(np.float64)
    prior = model.from_blendshapes(tuple(BLENDSHAPES)).astype(np.float64)
    prior *= [1.0 if name.startswith("eyeLook") else GAIN for name in model.names]
    other = np.linalg.norm(neutral[:, None] * [-1, 1, 1] - neutral, axis=2)
    return FaceBasis(
        neutral, table.locate(model.identity).astype(np.float64), table.locate(model.expression).astype(np.float64),
        table.weights[:NUM_FACE], model.names, prior, other.argmin(1),
    )  # fmt: skip


@dataclass(frozen=True)
class _Pose:
    """Scaled orthographic views of T frames, y up."""

    rotation: np.ndarray  # (T, 3, 3)
    scale: np.ndarray  # (T,)
    offset: np.ndarray  # (T, 3)

    def back(self, targets_TL3: np.ndarray) -> np.ndarray:
        """Landmarks as they would lie in head space, centimetres."""
        flat = (targets_TL3 - self.offset[:, None]) / self.scale[:, None, None]
        return flat @ self.rotation


def fit_driver(basis: FaceBasis, landmarks: np.ndarray, blendshapes: np.ndarray) -> DriverMotion:
    """Fit T frames of a face.

    Args:
        landmarks: (T, 478, 3) pixels of the crop: x right, y down, z away from the camera.
        blendshapes: (T, 52) as in FaceTrack.
    """
    likeness = fit_likeness(basis, landmarks[:STRETCH], blendshapes[:STRETCH])
    return fit_frames(basis, likeness, landmarks, blendshapes)


def fit_likeness(basis: FaceBasis, landmarks: np.ndarray, blendshapes: np.ndarray) -> Likeness:
    """Who is seen in (T, 478, 3) landmarks: one identity, each frame its own expression and view."""
    targets = _y_up(landmarks)
    identity, expression, pose = _fit_stretch(basis, targets, _expected(basis, blendshapes))
    person = basis.neutral + np.tensordot(identity, basis.identity, 1)
    moved = person + np.tensordot(expression, basis.expression, 1)
    left_over = (pose.back(targets) - moved).mean(0) * [1, 1, LEFT_DEPTH]
    if SYM: left_over = (left_over + left_over[basis.mirror] * [-1, 1, 1]) / 2
    left_over[NUM_FACE:] = 0
    neutral = person + left_over
    lids = np.array([_gaps(neutral, LIDS[s]) / _width(neutral, EYE_CORNERS[s]) for s in "LR"])
    return Likeness(identity, neutral, lids)


def fit_face(basis: FaceBasis, landmarks: np.ndarray, blendshapes: np.ndarray) -> HeadFit:
    """Explain a single picture: `fit.fit_head` with the blendshapes (52,) as prior, so that a smile is no cheek.

    landmarks: (478, 3) pixels as MediaPipe has them.
    """
    targets, expected = _y_up(landmarks[None]), _expected(basis, blendshapes[None])
    identity, expression, pose = _fit_stretch(basis, targets, expected)
    person = basis.neutral + np.tensordot(identity, basis.identity, 1)
    camera = Camera(pose.rotation[0], float(pose.scale[0]), FLIP * pose.offset[0])
    fitted = camera.project(person + np.tensordot(expression[0], basis.expression, 1))
    eyes = np.linalg.norm(landmarks[33, :2] - landmarks[263, :2])
    error = float(np.linalg.norm((fitted - landmarks)[:NUM_FACE, :2], axis=1).mean() / eyes)
    return HeadFit(identity.astype(np.float32), expression[0].astype(np.float32), camera, error)


def fit_frames(
    basis: FaceBasis, likeness: Likeness, landmarks: np.ndarray, blendshapes: np.ndarray
) -> DriverMotion:
    """Fit frames of a driver whose likeness is known; each on its own."""
    parts = []
    for start in range(0, len(landmarks), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        parts.append(_fit_part(basis, likeness, landmarks[part], blendshapes[part]))
    joined = {
        name: np.concatenate([getattr(p, name) for p in parts]).astype(np.float32)
        for name in ("expression", "angles", "lids", "lips", "landmarks")
    }
    return DriverMotion(**joined, likeness=likeness)


def _fit_part(
    basis: FaceBasis, likeness: Likeness, landmarks: np.ndarray, blendshapes: np.ndarray
) -> DriverMotion:
    targets = _y_up(landmarks)
    own = replace(basis, neutral=likeness.neutral)
    expected = _expected(basis, blendshapes)
    expression = expected.copy()
    pose = _align(own, likeness.neutral + np.tensordot(expression, basis.expression, 1), targets)
    for _ in range(ROUNDS):
        _, expression, pose = _step(own, targets, expected, None, expression, pose)
    seen = pose.back(targets)
    lids = np.stack([_gaps(seen, LIDS[s]) / _width(seen, EYE_CORNERS[s]) for s in "LR"], 1) / likeness.lids
    lips = np.stack([_gaps(seen, pairs) for pairs in LIPS], 1) / _width(likeness.neutral, MOUTH_CORNERS)
    return DriverMotion(expression, euler_angles(pose.rotation), lids, lips, landmarks, likeness)


def euler_angles(rotation: np.ndarray) -> np.ndarray:
    """(..., 3) yaw, pitch, roll in degrees of rotations (..., 3, 3), as FaceTrack.euler has them."""
    yaw = np.arctan2(rotation[..., 0, 2], rotation[..., 2, 2])
    pitch = np.arcsin(np.clip(-rotation[..., 1, 2], -1, 1))
    roll = np.arctan2(rotation[..., 1, 0], rotation[..., 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], -1))


def _fit_stretch(basis: FaceBasis, targets: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray, _Pose]:
    """The identity (I,) that the frames share, their expressions and views."""
    identity, expression = np.zeros(len(basis.identity)), expected.copy()
    pose = _align(basis, basis.neutral + np.tensordot(expression, basis.expression, 1), targets)
    for _ in range(FIRST_ROUNDS):
        identity, expression, pose = _step(basis, targets, expected, identity, expression, pose)
    return identity, expression, pose


def _expected(basis: FaceBasis, blendshapes: np.ndarray) -> np.ndarray:
    """(T, E) weights that the blendshapes (T, 52) announce; gaze counted from where the eyes look straight ahead."""
    expected = np.clip(blendshapes, 0, 1) @ basis.prior
    names = list(basis.names)
    for side in "LR":
        up, down = (names.index(f"eyeLook{d}_{side}") for d in ("Up", "Down"))
        level = expected[:, up] - expected[:, down] + GAZE_UP
        expected[:, up], expected[:, down] = np.clip(level, 0, 1), np.clip(-level, 0, 1)
    return expected


def _y_up(landmarks: np.ndarray) -> np.ndarray:
    return landmarks.astype(np.float64) * [1, -1, -1]


def _gaps(points: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(...,) mean height of upper over lower landmarks in head space (..., 478, 3)."""
    upper, lower = np.array(pairs).T
    return (points[..., upper, 1] - points[..., lower, 1]).mean(-1)


def _width(points: np.ndarray, corners: tuple[int, int]) -> np.ndarray:
    return np.linalg.norm(points[..., corners[0], :] - points[..., corners[1], :], axis=-1)


def _align(basis: FaceBasis, points: np.ndarray, targets: np.ndarray) -> _Pose:
    """The views that lay points (T, 478, 3) over targets (T, 478, 3, y up); Umeyama 1991, flat z counting in full."""
    share = (basis.weights / basis.weights.sum())[:, None]
    points, targets = points[:, :NUM_FACE], targets[:, :NUM_FACE]
    centre, goal = (points * share).sum(1), (targets * share).sum(1)
    p, q = points - centre[:, None], targets - goal[:, None]
    u, singular, vt = np.linalg.svd((q * share).transpose(0, 2, 1) @ p)
    signs = np.ones_like(singular)
    signs[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * signs[:, None]) @ vt
    scale = (singular * signs).sum(1) / (share * p**2).sum((1, 2))
    return _Pose(rotation, scale, goal - scale[:, None] * np.einsum("tij,tj->ti", rotation, centre))


def _step(
    basis: FaceBasis,
    targets: np.ndarray,
    expected: np.ndarray,
    identity: np.ndarray | None,
    expression: np.ndarray,
    pose: _Pose,
) -> tuple[np.ndarray | None, np.ndarray, _Pose]:
    """One Gauss-Newton step for the expressions and views of all frames, and for their common identity if one is given.

    What the frames do not share is eliminated first, so that the step is exact for both.
    """
    frames, shapes = expression.shape
    own = basis.neutral[:NUM_FACE] + np.tensordot(expression, basis.expression[:, :NUM_FACE], 1)
    if identity is not None:
        own = own + np.tensordot(identity, basis.identity[:, :NUM_FACE], 1)
    turned = own @ pose.rotation.transpose(0, 2, 1)
    scale = (np.sqrt(basis.weights)[:, None] * [1, 1, DEPTH_WEIGHT] / NOISE).reshape(-1)
    error = (targets[:, :NUM_FACE] - pose.offset[:, None]) / pose.scale[:, None, None] - turned
    error = (error.reshape(frames, -1) * scale).astype(np.float32)
    local = np.concatenate([_turn(basis.expression[:, :NUM_FACE], pose.rotation), _rigid(turned)], 1) * scale
    local = local.astype(np.float32)
    precision = np.full(shapes + 7, 1e-4)
    precision[:shapes] = EXPRESSION_SPREAD**-2
    precision[basis.gaze] = HELD**-2
    pull = np.zeros((frames, shapes + 7))
    pull[:, :shapes] = (expected - expression) * precision[:shapes]
    normal = (local @ local.transpose(0, 2, 1)).astype(np.float64) + np.diag(precision)
    right = (local @ error[..., None])[..., 0] + pull
    if identity is not None:
        shared = (_turn(basis.identity[:, :NUM_FACE], pose.rotation) * scale).astype(np.float32)
        across = (local @ shared.transpose(0, 2, 1)).astype(np.float64)  # (T, local, I)
        solved = np.linalg.solve(normal, np.concatenate([across, right[..., None]], 2))
        inner = (shared @ shared.transpose(0, 2, 1)).mean(0) - np.einsum("tli,tlj->ij", across, solved[..., :-1]) / frames
        outer = (shared @ error[..., None])[..., 0].mean(0) - np.einsum("tli,tl->i", across, solved[..., -1]) / frames
        strength = IDENTITY_SPREAD**-2
        change = np.linalg.solve(inner + strength * np.eye(len(identity)), outer - strength * identity)
        right = right - across @ change
        identity = identity + change
    low = np.concatenate([-expression, np.full((frames, 7), -np.inf)], 1)
    high = np.concatenate([1 - expression, np.full((frames, 7), np.inf)], 1)
    step = _solve_within(normal, right, low, high)
    return identity, np.clip(expression + step[:, :shapes], 0, 1), _moved(pose, step[:, shapes:])


def _turn(shapes: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """(T, K, 3 L): shapes (K, L, 3) as seen in each view."""
    count = len(shapes)
    return (shapes.reshape(-1, 3) @ rotation.transpose(0, 2, 1)).reshape(len(rotation), count, -1)


def _rigid(turned: np.ndarray) -> np.ndarray:
    """(T, 7, 3 L): how points (T, L, 3) move by a turn about x, y, z, a shift along them, and growth."""
    x, y, z = np.moveaxis(turned, 2, 0)
    none, one = np.zeros_like(x), np.ones_like(x)
    columns = [(none, -z, y), (z, none, -x), (-y, x, none), (one, none, none), (none, one, none), (none, none, one)]
    columns.append((x, y, z))
    return np.stack([np.stack(c, 2).reshape(len(x), -1) for c in columns], 1)


def _solve_within(normal: np.ndarray, right: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(T, n) solutions of normal (T, n, n) x = right (T, n) with low <= x <= high: what leaves is held at its limit."""
    found = np.linalg.solve(normal, right[..., None])[..., 0]
    for _ in range(2):
        held = (found <= low) | (found >= high)
        limit = np.where(held, np.clip(found, low, high), 0.0)
        free = ~held
        rest = np.where(free, right - np.einsum("tij,tj->ti", normal, limit), limit)
        mixed = normal * (free[:, :, None] & free[:, None, :]) + np.eye(right.shape[1]) * held[:, :, None]
        found = np.linalg.solve(mixed, rest[..., None])[..., 0]
    return np.clip(found, low, high)


def _moved(pose: _Pose, step: np.ndarray) -> _Pose:
    """The views after a turn, shift and growth (T, 7)."""
    return _Pose(
        _rotations(step[:, :3]) @ pose.rotation,
        pose.scale * np.exp(step[:, 6]),
        pose.offset + pose.scale[:, None] * step[:, 3:6],
    )


def _rotations(vectors: np.ndarray) -> np.ndarray:
    """(T, 3, 3) rotations about vectors (T, 3) by their length in radians (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None] + 1e-12
    x, y, z = vectors.T
    none = np.zeros_like(x)
    cross = np.stack([none, -z, y, z, none, -x, -y, x, none], 1).reshape(-1, 3, 3) / angle
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
