"""What a driver does, as any head can do it: expression, gaze and rotation, fitted on the driver's own face.

The first STRETCH frames tell who the driver is and are fitted together. Each frame is then fitted by itself, so that a
preview, a live picture and the whole clip agree. The blendshapes say what to expect, the landmarks decide; gaze comes
from the blendshapes alone, because the geometry of the irises followed known renders less well (r .95 and .90 instead
of .96 and .92). Gaze is smoothed over three frames, a lag of one; all else is as steady as the landmarks are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from .fit import FLIP, Camera, HeadFit
from .landmarks import NUM_FACE
from .solve import (
    EYE_CORNERS,
    LIDS,
    LIPS,
    MOUTH_CORNERS,
    FaceBasis,
    Views,
    align,
    euler_angles,
    gaps,
    step,
    width,
    y_up,
)

STRETCH = 48  # frames that tell the driver's looks, and the scale at which a head is placed
FIRST_ROUNDS, ROUNDS = 4, 3  # Gauss-Newton steps for the stretch, and for a frame
AT_ONCE = 32  # frames whose equations are in memory together
CLOSED_LIDS = 0.25  # share of its opening at rest that the tracker still sees of a closed eye
WIDE = 80  # percentile of the lids in the stretch that is their opening at rest, if the fit finds less
SEEN_LIDS, TRUE_LIDS = (0.0, 0.22, 0.48, 0.66, 0.87, 1.0), (0.0, 0.22, 0.35, 0.48, 0.74, 1.0)  # tracked, rendered
LIPS_SLACK, LIPS_SOON = 0.045, 0.06  # shares of the mouth's width: the tracker sees lips part before they do


@dataclass(frozen=True)
class Likeness:
    """Who the driver is."""

    identity: np.ndarray  # (I,)
    neutral: np.ndarray  # (478, 3) the face at rest, centimetres, with what no identity explains
    lids: np.ndarray  # (2,) how far the left and the right eye are open at rest, as share of the eye's width


@dataclass(frozen=True)
class DriverMotion:
    """What the driver does in T frames, freed from the driver's looks; float32 arrays."""

    expression: np.ndarray  # (T, E) weights in 0..1, named as in HeadModel.names
    angles: np.ndarray  # (T, 3) degrees: yaw, pitch, roll in the crop, as FaceTrack.euler
    lids: np.ndarray  # (T, 2) left and right eye: 0 closed, 1 as open as the driver's at rest
    lips: np.ndarray  # (T, 3) gap in the middle, right and left: 0 closed, in shares of the mouth's width at rest
    landmarks: np.ndarray  # (T, 478, 3) pixels of the crop

    def __len__(self) -> int:
        return len(self.angles)

    def __getitem__(self, index: slice | np.ndarray) -> DriverMotion:
        """The chosen frames."""
        return DriverMotion(*(getattr(self, field.name)[index] for field in fields(self)))


def fit_driver(basis: FaceBasis, landmarks: np.ndarray, blendshapes: np.ndarray) -> DriverMotion:
    """Fit T frames of a face, its looks from the first STRETCH of them.

    Args:
        landmarks: (T, 478, 3) pixels of the crop: x right, y down, z away from the camera, as `crop_landmarks` gives.
        blendshapes: (T, 52) as in FaceTrack.
    """
    return fit_frames(basis, fit_likeness(basis, landmarks[:STRETCH], blendshapes[:STRETCH]), landmarks, blendshapes)


def fit_likeness(basis: FaceBasis, landmarks: np.ndarray, blendshapes: np.ndarray) -> Likeness:
    """Who is seen in T frames of one face; arguments as in `fit_driver`."""
    targets = y_up(landmarks)
    identity, expression, views = _fit_stretch(basis, targets, basis.expect(blendshapes))
    person = basis.person(identity)
    left_over = (views.back(targets) - basis.express(person, expression)).mean(0) * [1, 1, 0]  # depth is a guess
    left_over = (left_over + left_over[basis.mirror] * [-1, 1, 1]) / 2  # a turned head must not make a crooked one
    left_over[NUM_FACE:] = 0
    neutral = person + left_over
    lids = np.maximum(_lids(neutral), np.percentile(_lids(views.back(targets)), WIDE, axis=0))
    return Likeness(identity, neutral, lids)


def fit_frames(basis: FaceBasis, likeness: Likeness, landmarks: np.ndarray, blendshapes: np.ndarray) -> DriverMotion:
    """Fit frames of a driver whose looks are known; arguments as in `fit_driver`."""
    expected = basis.expect(blendshapes)
    expected[:, basis.gaze] = settle(expected[:, basis.gaze])
    found = []
    for start in range(0, len(landmarks), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        found.append(_fit_part(basis, likeness, landmarks[part], expected[part]))
    joined = [np.concatenate([getattr(part, field.name) for part in found]) for field in fields(DriverMotion)]
    return DriverMotion(*(values.astype(np.float32) for values in joined))


def fit_face(basis: FaceBasis, landmarks: np.ndarray, blendshapes: np.ndarray) -> HeadFit:
    """Explain a single picture as `fit_head` does, but with its blendshapes (52,) as prior: a smile is no broad face.

    landmarks: (478, 3) pixels as MediaPipe has them.
    """
    targets = y_up(landmarks[None])
    identity, expression, views = _fit_stretch(basis, targets, basis.expect(blendshapes[None]))
    fitted = views.project(basis.express(basis.person(identity), expression))
    eyes = np.linalg.norm(landmarks[33, :2] - landmarks[263, :2])
    error = float(np.linalg.norm((fitted - targets)[0, :NUM_FACE, :2], axis=1).mean() / eyes)
    camera = Camera(views.rotation[0], float(views.scale[0]), FLIP * views.offset[0])
    return HeadFit(identity.astype(np.float32), expression[0].astype(np.float32), camera, error)


def settle(values: np.ndarray) -> np.ndarray:
    """(T, ...) smoothed over three frames; a lag of one."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    return padded[:-2] / 4 + padded[1:-1] / 2 + padded[2:] / 4


def _fit_stretch(basis: FaceBasis, targets: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray, Views]:
    """The identity (I,) that the frames share, their expressions (T, E) and views."""
    identity, expression = np.zeros(len(basis.identity)), expected
    views = align(basis, basis.express(basis.neutral, expression), targets)
    for _ in range(FIRST_ROUNDS):
        expression, views, found = step(basis, basis.person(identity), targets, expected, expression, views, identity)
        assert found is not None
        identity = found
    return identity, expression, views


def _fit_part(basis: FaceBasis, likeness: Likeness, landmarks: np.ndarray, expected: np.ndarray) -> DriverMotion:
    targets, expression = y_up(landmarks), expected
    views = align(basis, basis.express(likeness.neutral, expression), targets)
    for _ in range(ROUNDS):
        expression, views, _ = step(basis, likeness.neutral, targets, expected, expression, views)
    seen = views.back(targets)
    lids = _lids(seen) / likeness.lids
    lips = np.stack([gaps(seen, pairs) for pairs in LIPS], 1) / width(likeness.neutral, MOUTH_CORNERS)
    return DriverMotion(expression, euler_angles(views.rotation), _true_lids(lids), _true_lips(lips), landmarks)


def _lids(points: np.ndarray) -> np.ndarray:
    """(..., 2) how far the left and the right eye are open, as share of the eye's width."""
    sides = zip(LIDS, EYE_CORNERS, strict=True)
    return np.stack([gaps(points, pairs) / width(points, ends) for pairs, ends in sides], -1)


def _true_lids(seen: np.ndarray) -> np.ndarray:
    """What lids do that the tracker sees open by so much of their opening at rest; from renders of known lids."""
    share = np.clip((seen - CLOSED_LIDS) / (1 - CLOSED_LIDS), 0, 1.4)
    return np.interp(share, SEEN_LIDS, TRUE_LIDS) + np.maximum(share - 1, 0)


def _true_lips(seen: np.ndarray) -> np.ndarray:
    """Likewise for lips, in shares of the mouth's width."""
    gap = np.maximum(seen, 0)
    return gap - LIPS_SLACK * (1 - np.exp(-gap / LIPS_SOON))
