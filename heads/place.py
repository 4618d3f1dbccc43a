"""A driver's motion on another person's head, and that head laid over the driver's face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .drive import STRETCH, DriverMotion
from .fit import FLIP, HeadFit
from .landmarks import NUM_FACE
from .motion import Motion
from .scene import PIVOT
from .solve import LIDS, LIPS, MOUTH_CORNERS, FaceBasis, euler_angles, gaps, rotations, solve_within, width

if TYPE_CHECKING:
    from .face_motion import FaceMotion

TOUCH_LIDS = 0.075  # centimetres between the landmarks of a closed eye's lids
TOUCH_LIPS = -0.05  # centimetres from the mouth at rest until its lips touch
GAP_NOISE = 0.02  # centimetres by which a gap may be missed
FREE = {"eyeBlink": 0.5, "eyeWide": 0.3, "eyeSquint": 0.1, "jawOpen": 0.15, "mouthClose": 0.1, "mouthLowerDown": 0.1,
        "mouthUpperUp": 0.1, "mouthPress": 0.1, "mouthShrugLower": 0.05, "mouthRollLower": 0.05}  # fmt: skip
STIFF = 0.01  # how far the weights that are not in FREE may change
TURN_FREE, TURN_MOST = 22.0, 38.0  # degrees away from the photo's own view: not limited, and never reached
SIZE_FREE = 0.05  # share by which a face may seem larger or smaller before the head's size follows: the tracker's noise
SIZE_PACE = 8.0  # frames: so slowly
MOST_LIDS = 1.4  # how far a picture's lids may count as open at rest
MOST_BLINK = 1.25  # large eyes need more than the whole shape


def transfer(
    basis: FaceBasis,
    driver: DriverMotion,
    source: HeadFit,
    mode: Literal["absolute", "relative"] = "absolute",
    reference: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Expression (T, E) and angles (T, 3) degrees with which the source's head does what the driver does.

    absolute: the driver's own; what the source's face does in its picture is gone.
    relative: the driver's change since frame `reference`, added to what the source's face does in its picture. The head
    turns away from its own view by less than TURN_MOST: beyond, the photo has nothing to show.

    Lids and lips are as open as the driver's, whatever the proportions. eyeBlink may exceed 1 on large eyes.
    """
    expression, lids, lips, angles = retarget(basis, driver, source, mode, reference)
    return with_openings(basis, source.identity, expression, lids, lips), angles


def retarget(
    basis: FaceBasis,
    driver: DriverMotion | FaceMotion,
    source: HeadFit,
    mode: Literal["absolute", "relative"],
    reference: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What `transfer` wants of the source: expression (T, E), lids (T, 2), lips (T, 3), angles (T, 3) degrees."""
    expression, lids, lips = (a.astype(np.float64) for a in (driver.expression, driver.lids, driver.lips))
    angles = driver.angles
    if mode == "relative":
        own_lids, own_lips = openings(basis, source)
        expression = np.clip(expression - expression[reference] + source.expression, 0, 1)
        lids = lids * (np.clip(own_lids, 0, MOST_LIDS) / np.maximum(lids[reference], 0.5))
        lips = np.maximum(lips - lips[reference] + np.maximum(own_lips, 0), 0)
        turns = rotations(angles)
        own = euler_angles(source.camera.rotation)
        change = euler_angles(turns @ turns[reference].T @ source.camera.rotation) - own
        angles = (own + limit_turn((change + 180) % 360 - 180)).astype(np.float32)
    return expression, lids, lips, angles


def place(
    basis: FaceBasis,
    source: HeadFit,
    expression: np.ndarray,
    angles: np.ndarray,
    marks: np.ndarray,
    affine: np.ndarray,
    side: int,
) -> Motion:
    """The motion for `scene.move_head` that lays the source's head over a driver's landmarks.

    A shift a frame and one scale, from the first STRETCH frames, both by the whole face. The scale follows, slowly, a
    driver who comes much nearer or goes away.

    Args:
        expression, angles: from `transfer`.
        marks: (T, 478, 3) pixels of the picture into which `affine` (2, 3) takes the canvas that `source` lies on.
        side: pixels of the crop's side on the canvas (`Rig.fine`), in which Motion.shift is counted.
    """
    heads = basis.express(basis.person(source.identity), expression) - PIVOT
    growth = float(affine[0, 0])
    here = ((heads @ rotations(angles).transpose(0, 2, 1)) * FLIP)[:, :NUM_FACE, :2] * (source.camera.scale * growth)
    there = marks[:, :NUM_FACE, :2].astype(np.float64)
    share = (basis.weights / basis.weights.sum())[:, None]
    middle, goal = (here * share).sum(1), (there * share).sum(1)
    sizes = [(share * (p - m[:, None]) ** 2).sum((1, 2)) for p, m in ((here, middle), (there, goal))]
    zoom = follow_size(np.sqrt(sizes[1] / sizes[0]))[:, None]
    anchor = affine[:, :2] @ source.camera.project(PIVOT)[:2] + affine[:, 2]
    shift = (goal - anchor - zoom * middle) / (growth * side)
    return Motion(
        expression.astype(np.float32), angles.astype(np.float32), shift.astype(np.float32),
        zoom[:, 0].astype(np.float32),
    )  # fmt: skip


def limit_turn(change: np.ndarray) -> np.ndarray:
    """Degrees away from the photo's view, squeezed smoothly below TURN_MOST; small ones are kept."""
    room = TURN_MOST - TURN_FREE
    over = np.maximum(np.abs(change) - TURN_FREE, 0)
    return np.sign(change) * (np.minimum(np.abs(change), TURN_FREE) + room * np.tanh(over / room))


def follow_size(sizes: np.ndarray) -> np.ndarray:
    """(T,) scales of the head from how large the face seems in each frame (T,), relative to the head.

    The median of the first STRETCH frames, until a frame and those about it differ from it by over SIZE_FREE.
    """
    usual = float(np.median(sizes[:STRETCH]))
    reach = round(3 * SIZE_PACE)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SIZE_PACE) ** 2)
    padded = np.pad(np.log(sizes / usual), reach, mode="edge")
    slow = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return usual * np.exp(np.sign(slow) * np.maximum(np.abs(slow) - SIZE_FREE, 0))


def openings(basis: FaceBasis, source: HeadFit) -> tuple[np.ndarray, np.ndarray]:
    """Lids (2,) and lips (3,) of the source's picture, as in DriverMotion."""
    rest = basis.person(source.identity)
    face = basis.express(rest, source.expression[None])[0]
    lids = [(gaps(face, pairs) - TOUCH_LIDS) / (gaps(rest, pairs) - TOUCH_LIDS) for pairs in LIDS]
    lips = [gaps(face - rest, pairs) - TOUCH_LIPS for pairs in LIPS] / width(rest, MOUTH_CORNERS)
    return np.array(lids), lips


def with_openings(
    basis: FaceBasis, identity: np.ndarray, expression: np.ndarray, lids: np.ndarray, lips: np.ndarray
) -> np.ndarray:
    """Weights (T, E) changed as little as possible so that this head's lids (T, 2) and lips (T, 3) are so far open."""
    rest = basis.person(identity)
    rows = np.stack([gaps(basis.expression, pairs) for pairs in (*LIDS, *LIPS)])
    apart = np.array([gaps(rest, pairs) - TOUCH_LIDS for pairs in LIDS])
    goal = np.concatenate([(lids - 1) * apart, TOUCH_LIPS + width(rest, MOUTH_CORNERS) * lips], 1)
    spread = np.array([FREE.get(name.split("_")[0], STIFF) for name in basis.names])
    normal = np.diag(spread**-2.0) + rows.T @ rows / GAP_NOISE**2
    right = (goal - expression @ rows.T) @ rows / GAP_NOISE**2
    top = np.array([MOST_BLINK if name.startswith("eyeBlink") else 1.0 for name in basis.names])
    top = np.maximum(top, expression)  # edits may ask for more
    every = np.broadcast_to(normal, (len(expression), *normal.shape))
    return (expression + solve_within(every, right, -expression, top - expression)).astype(np.float32)
