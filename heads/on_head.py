"""A face's motion, with its edits, on one portrait's head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .controls import CONTROLS, NUMBER, Control, pairs_of, weights_of
from .face_motion import FaceMotion
from .fit import FLIP, HeadFit
from .landmarks import NUM_FACE
from .motion import Motion
from .place import openings, retarget, with_openings
from .scene import MARGIN, PIVOT
from .solve import LIPS, MOUTH_CORNERS, FaceBasis, euler_angles, gaps, rotations, width

MOST_LIDS, MOST_LIPS = 1.8, 1.2  # how far lids (1: at rest) and lips (mouth's widths) may be opened by edits
MOST_ZOOM = 4.0  # logarithm of the size that edits may add, however often they are repeated
FOLLOW = (0.6, 0.4)  # openings at rest by which the lids follow eyes that look wholly down and up, as in life


@dataclass(frozen=True)
class _Face:
    """Values that controls move: of the portrait, with T = 1, or of a motion."""

    expression: np.ndarray  # (T, E)
    lids: np.ndarray  # (T, 2)
    lips: np.ndarray  # (T, 3)
    angles: np.ndarray  # (T, 3)
    pivot: np.ndarray  # (T, 2) shares of the square's side
    size: np.ndarray  # (T,) as FaceMotion.size


def on_head(
    basis: FaceBasis,
    motion: FaceMotion,
    source: HeadFit,
    side: int,
    mode: Literal["absolute", "relative"] = "absolute",
    reference: int = 0,
) -> Motion:
    """The motion for `scene.move_head` with which the source's head does what `motion` says, edits included.

    Each control goes from the source's own value s to the motion's m: s + strength * (m - s) + offset.

    Args:
        source: fitted on the canvas of a square of `side` canvas pixels (`Rig.fine`).
        mode, reference: as in `heads.place.transfer`; relative motion also counts its place from the source's.
    """
    own = _own(basis, source, side)
    face = _edited(basis, motion, own, _wanted(basis, motion, source, own, mode, reference), source)
    expression = with_openings(basis, source.identity, face.expression, face.lids, face.lips)
    shift = face.pivot - own.pivot
    return Motion(
        expression, face.angles.astype(np.float32), shift.astype(np.float32), (face.size / own.size).astype(np.float32)
    )


def _own(basis: FaceBasis, source: HeadFit, side: int) -> _Face:
    """The source as it is in its picture."""
    lids, lips = openings(basis, source)
    pivot = source.camera.project(PIVOT)[:2] / side - MARGIN
    size = source.camera.scale / (side * _growth(basis, source))
    return _Face(
        source.expression[None].astype(np.float64), lids[None], lips[None],
        euler_angles(source.camera.rotation)[None].astype(np.float32), pivot[None], np.array([size]),
    )  # fmt: skip


def _wanted(
    basis: FaceBasis,
    motion: FaceMotion,
    source: HeadFit,
    own: _Face,
    mode: Literal["absolute", "relative"],
    reference: int,
) -> _Face:
    """What the source's head would do without edits."""
    expression, lids, lips, angles = retarget(basis, motion, source, mode, reference)
    if mode == "relative":
        ratio = own.size[0] / motion.size.astype(np.float64)
        pivot = own.pivot + (motion.centre - motion.centre[reference]) * ratio[reference]
        return _Face(expression, lids, lips, angles, pivot, motion.size * ratio[reference])
    return _Face(expression, lids, lips, angles, _pivot(basis, motion, source), motion.size.astype(np.float64))


def _pivot(basis: FaceBasis, motion: FaceMotion, source: HeadFit) -> np.ndarray:
    """(T, 2) where the source's head must turn so that its face's middle lies where the bundled head's would."""
    middles = [_middle(basis, basis.neutral), _growth(basis, source) * _middle(basis, basis.person(source.identity))]
    apart = (rotations(motion.angles) @ (middles[0] - middles[1])) * FLIP
    return motion.centre + motion.size[:, None] * apart[:, :2]


def _middle(basis: FaceBasis, face: np.ndarray) -> np.ndarray:
    """(3,) the middle of a face (478, 3), counted from where the head turns."""
    return np.average(face[:NUM_FACE], axis=0, weights=basis.weights) - PIVOT


def _growth(basis: FaceBasis, source: HeadFit) -> float:
    """By how much the source's head is to be drawn larger so that its face is as large as the bundled head's."""
    spans = []
    for face in (basis.neutral, basis.person(source.identity)):
        off = face[:NUM_FACE, :2] - np.average(face[:NUM_FACE, :2], axis=0, weights=basis.weights)
        spans.append(np.average((off**2).sum(1), weights=basis.weights))
    return float(np.sqrt(spans[0] / spans[1]))


def _edited(basis: FaceBasis, motion: FaceMotion, own: _Face, face: _Face, source: HeadFit) -> _Face:
    """The face after strengths and offsets; without any it is the same to the bit."""

    def scaled(name: str, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        strength = motion.strength[:, NUMBER[name]].astype(np.float64).reshape(-1, *[1] * (end.ndim - 1))
        return np.where(strength == 1, end, start + strength * (end - start))

    def offset(name: str) -> np.ndarray:
        return motion.offset[:, NUMBER[name]].astype(np.float64)

    expression = face.expression.copy()
    for control in CONTROLS:
        chosen = weights_of(control, basis.names)
        if chosen:
            expression[:, chosen] = scaled(control.name, own.expression[:, chosen], expression[:, chosen])
    lids, lips = scaled("lids", own.lids, face.lids), scaled("mouth", own.lips, face.lips)
    moved, follow_lids, follow_lips = _offset(basis, motion, np.clip(expression, 0, 1), source)
    lids = np.where(follow_lids == 0, lids, np.clip(lids + follow_lids, 0, MOST_LIDS))
    lips = np.where(follow_lips == 0, lips, np.clip(lips + follow_lips, 0, MOST_LIPS))
    turns = [scaled(name, own.angles[:, n], face.angles[:, n]) for n, name in enumerate(("yaw", "pitch", "roll"))]
    angles = np.stack([turn + offset(name) for turn, name in zip(turns, ("yaw", "pitch", "roll"), strict=True)], 1)
    pivot = np.stack(
        [
            scaled("right", own.pivot[:, 0], face.pivot[:, 0]) + offset("right"),
            scaled("up", own.pivot[:, 1], face.pivot[:, 1]) - offset("up"),
        ],
        1,
    )
    size = scaled("zoom", own.size, face.size) * np.exp(np.clip(offset("zoom"), -MOST_ZOOM, MOST_ZOOM))
    return _Face(moved, lids, lips, angles, pivot, size)


def _offset(
    basis: FaceBasis, motion: FaceMotion, expression: np.ndarray, source: HeadFit
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (T, E) after the offsets, and by how much they open lids (T, 2) and lips (T, 3)."""
    moved, lids, lips = expression.copy(), np.zeros((len(motion), 2)), np.zeros((len(motion), 3))
    rest = basis.person(source.identity)
    for control in CONTROLS:
        by = motion.offset[:, NUMBER[control.name]].astype(np.float64)
        if not control.pairs or not by.any():
            continue
        before = moved.copy()
        _push(basis, control, moved, by)
        change = moved - before
        if control.name == "lids":
            lids += by[:, None]
        elif control.name == "gaze_up":
            lids += np.where(by < 0, FOLLOW[0], FOLLOW[1])[:, None] * by[:, None]
        elif control.name == "mouth":
            lips += np.where(by[:, None] < 0, by[:, None], _gaps(basis, change, LIPS) / width(rest, MOUTH_CORNERS))
    return moved, lids, lips


def _push(basis: FaceBasis, control: Control, weights: np.ndarray, by: np.ndarray) -> None:
    """Move a control's weights (T, E) in place by its offset (T,); frames without one keep them to the bit.

    None gets beyond a whole expression, or what a whole offset asks: faces look natural up to there.
    """
    for more, less, amount in pairs_of(control, basis.names):
        up, down = (0.0 if n is None else weights[:, n] for n in (more, less))
        level = up - down + by * amount
        for n, value in ((more, level), (less, -level)):
            if n is not None:
                weights[:, n] = np.where(by == 0, weights[:, n], np.clip(value, 0, max(1, amount)))


def _gaps(basis: FaceBasis, change: np.ndarray, groups: tuple) -> np.ndarray:
    """(T, groups) by how many centimetres a change of weights (T, E) opens each."""
    return change @ np.stack([gaps(basis.expression, pairs) for pairs in groups], 1)
