"""A driver's motion on another person's head, and that head laid over the driver's face."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from .drive import LIDS, LIPS, MOUTH_CORNERS, STRETCH, DriverMotion, FaceBasis, _gaps, _solve_within, _width, euler_angles
from .fit import FLIP, HeadFit, rotation_matrix
from .landmarks import NUM_FACE
from .motion import Motion
from .scene import PIVOT

CLOSED_LIDS = 0.15  # DriverMotion.lids of a closed eye: the tracker's lids never meet
TOUCH_LIDS = 0.075  # centimetres between the head's lids at the landmarks when the eye is closed
SEEN_LIDS, TRUE_LIDS = (0.0, 0.22, 0.48, 0.66, 0.87, 1.0), (0.0, 0.22, 0.35, 0.48, 0.74, 1.0)  # tracked, rendered
LIPS_SLACK, LIPS_SOON = 0.045, 0.06  # the tracker sees lips part later than they do
TOUCH_LIPS = -0.05  # centimetres from the head at rest until its lips touch
ROW_NOISE = 0.02  # centimetres by which a gap may be missed
FREE = {"eyeBlink": 0.5, "eyeWide": 0.3, "eyeSquint": 0.1, "jawOpen": 0.15, "mouthClose": 0.1, "mouthLowerDown": 0.1,
        "mouthUpperUp": 0.1, "mouthPress": 0.1, "mouthShrugLower": 0.05, "mouthRollLower": 0.05}  # fmt: skip
STIFF = 0.01  # spread of the other weights
MOST_BLINK = 1.25  # large eyes need more than the whole shape


def transfer(basis: FaceBasis, driver: DriverMotion, identity: np.ndarray) -> np.ndarray:
    """(T, E) weights with which a head of this identity does what the driver does: lids and lips as open as there."""
    rest = basis.neutral + np.tensordot(identity.astype(np.float64), basis.identity, 1)
    rows, wanted = [], []
    for column, side in enumerate("LR"):
        rows.append(_gaps(basis.expression, LIDS[side]))
        seen = np.clip((driver.lids[:, column] - CLOSED_LIDS) / (1 - CLOSED_LIDS), 0, 1.4)
        true = np.interp(seen, SEEN_LIDS, TRUE_LIDS) + np.maximum(seen - 1, 0)
        wanted.append((true - 1) * (_gaps(rest, LIDS[side]) - TOUCH_LIDS))
    width = _width(rest, MOUTH_CORNERS)
    for column, pairs in enumerate(LIPS):
        rows.append(_gaps(basis.expression, pairs))
        gap = np.maximum(driver.lips[:, column], 0)
        wanted.append(TOUCH_LIPS + width * (gap - LIPS_SLACK * (1 - np.exp(-gap / LIPS_SOON))))
    matrix, goal = np.stack(rows), np.stack(wanted, 1)
    spread = np.array([FREE.get(name.split("_")[0], STIFF) for name in basis.names])
    given = driver.expression.astype(np.float64)
    normal = np.diag(spread**-2) + matrix.T @ matrix / ROW_NOISE**2
    right = (goal - given @ matrix.T) @ matrix / ROW_NOISE**2
    top = np.array([MOST_BLINK if name.startswith("eyeBlink") else 1.0 for name in basis.names])
    count = len(given)
    change = _solve_within(np.broadcast_to(normal, (count, *normal.shape)), right, -given, top - given)
    return (given + change).astype(np.float32)


def place(
    basis: FaceBasis, fit: HeadFit, expression: np.ndarray, angles: np.ndarray, marks: np.ndarray, affine: np.ndarray, fine: int
) -> Motion:
    """The motion (for `scene.move_head`) that lays the head of `fit` over `marks` (T, 478, 3): one scale, a shift a frame.

    marks: pixels of the picture into which `affine` (2, 3) takes the portrait's canvas.
    """
    rest = basis.neutral + np.tensordot(fit.identity.astype(np.float64), basis.identity, 1)
    heads = rest + np.tensordot(expression, basis.expression, 1) - PIVOT
    turns = np.stack([rotation_matrix(*a) for a in angles]).astype(np.float64)
    grown = float(affine[0, 0])
    anchor = affine[:, :2] @ fit.camera.project(PIVOT)[:2] + affine[:, 2]
    here = (heads @ turns.transpose(0, 2, 1) * FLIP)[:, :NUM_FACE, :2] * (fit.camera.scale * grown)
    there = marks[:, :NUM_FACE, :2].astype(np.float64)
    share = (basis.weights / basis.weights.sum())[:, None]
    middle, goal = (here * share).sum(1), (there * share).sum(1)
    spread = lambda p, m: (share * (p - m[:, None]) ** 2).sum((1, 2))  # noqa: E731
    first = slice(0, STRETCH)
    zoom = float(np.median(np.sqrt(spread(there, goal)[first] / spread(here, middle)[first])))
    shift = (goal - anchor - zoom * middle) / (grown * fine)
    return Motion(expression.astype(np.float32), angles.astype(np.float32), shift.astype(np.float32), np.full(len(angles), zoom, np.float32))
