"""What about a portrait makes its posed head doubtful, in words for the user: it works, but may look wrong."""

from __future__ import annotations

import logging

import numpy as np

from ..signals.mirror import MirrorGap, mirror_gap
from ..signals.track import BLENDSHAPES, FaceTrack
from .fit import HeadFit

TURNED = 25.0  # degrees of yaw from which on the photo shows little of the far side
TILTED = 25.0  # degrees of pitch
CLOSED, OPEN = 0.65, 0.4  # blendshapes of lids and jaw
BAD_FIT = 0.045  # mean error over the distance between the eyes; 37 generated faces had .012 to .034
LEAST_EYES = 32  # pixels between the eyes; the face is half as wide again
HARD = 0.035  # gap to the mirror image, over the distance between the eyes; 95 of 100 generated faces have less

log = logging.getLogger(__name__)


def look_for_doubts(picture: np.ndarray, face: FaceTrack, fit: HeadFit) -> list[str]:
    """`find_doubts` of a picture (H, W, 3) uint8, which is mirrored and looked at once more."""
    return find_doubts(face, fit, mirror_gap(picture, face))


def warn(doubts: list[str]) -> None:
    """Log each of them as a warning."""
    for doubt in doubts:
        log.warning("the portrait may not work well: %s", doubt)


def find_doubts(face: FaceTrack, fit: HeadFit, mirrored: MirrorGap | None) -> list[str]:
    """Sentences, one for each thing that may look wrong; none for a good portrait.

    `face` is one frame; `mirrored` is from `signals.mirror`, None where the mirrored picture has no such face.
    """
    yaw, pitch = turned(face, fit), float(face.euler[0, 1])
    eyes, shapes = float(face.eye_distance[0]), dict(zip(BLENDSHAPES, face.blendshapes[0], strict=True))
    found = []
    if yaw > TURNED:
        found.append(f"it is turned by {yaw:.0f} degrees: the far side is guessed, which relative motion hides")
    if abs(pitch) > TILTED:
        found.append(f"it looks {'up' if pitch < 0 else 'down'} by {abs(pitch):.0f} degrees: chin and brow may tear")
    if np.mean([shapes["eyeBlinkLeft"], shapes["eyeBlinkRight"]]) > CLOSED:
        found.append("its eyes are closed: open ones are painted")
    if shapes["jawOpen"] > OPEN:
        found.append("its mouth is wide open: closed lips are stretched from it")
    if eyes < LEAST_EYES:
        found.append(f"its eyes are {eyes:.0f} pixels apart: expect little detail")
    if fit.error > BAD_FIT:
        found.append("its proportions fit no person well: a drawing, an animal or a covered face may move oddly")
    return found + _hard_to_see(mirrored, eyes)


def turned(face: FaceTrack, fit: HeadFit) -> float:
    """Degrees by which a head is turned aside: the detector sees 5 sixths of it, the fit all."""
    return max(abs(float(face.euler[0, 0])), abs(fit.camera.yaw))


def _hard_to_see(mirrored: MirrorGap | None, eyes: float) -> list[str]:
    if mirrored is None:
        return ["its face is not found in the mirrored picture: is it upside down, or none?"]
    if eyes < LEAST_EYES:
        return []
    parts = [name for name, gap in (("eyes", mirrored.eyes), ("mouth", mirrored.mouth)) if gap > HARD]
    if not parts:
        return []
    verb = "is" if parts == ["mouth"] else "are"
    return [f"its {' and '.join(parts)} {verb} hard to make out: a hand, mask or dark glass before it is painted over"]
