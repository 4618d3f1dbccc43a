"""What about a portrait makes its posed head doubtful, in words for the user: it works, but may look wrong."""

from __future__ import annotations

import numpy as np

from ..signals.track import BLENDSHAPES, SMALL_FACE, FaceTrack
from .fit import HeadFit

TURNED = 25.0  # degrees of yaw from which on the photo shows little of the far side
TILTED = 25.0  # degrees of pitch
CLOSED, OPEN = 0.65, 0.4  # blendshapes of lids and jaw
BAD_FIT = 0.045  # mean error over the distance between the eyes; 37 generated faces had .012 to .034


def find_doubts(face: FaceTrack, fit: HeadFit) -> list[str]:
    """Sentences, one for each thing that may look wrong; none for a good portrait. `face` is one frame."""
    yaw, pitch = (float(a) for a in face.euler[0, :2])
    eyes, shapes = float(face.eye_distance[0]), dict(zip(BLENDSHAPES, face.blendshapes[0], strict=True))
    found = []
    if abs(yaw) > TURNED:
        found.append(f"it is turned by {abs(yaw):.0f} degrees: the far side of the face is guessed")
    if abs(pitch) > TILTED:
        found.append(f"it looks {'up' if pitch < 0 else 'down'} by {abs(pitch):.0f} degrees: chin and brow may tear")
    if np.mean([shapes["eyeBlinkLeft"], shapes["eyeBlinkRight"]]) > CLOSED:
        found.append("its eyes are closed: open ones are painted")
    if shapes["jawOpen"] > OPEN:
        found.append("its mouth is wide open: closed lips are stretched from it")
    if eyes < SMALL_FACE:
        found.append(f"its eyes are {eyes:.0f} pixels apart: expect little detail")
    if fit.error > BAD_FIT:
        found.append("its proportions fit no person well: a drawing, an animal or a covered face may move oddly")
    return found
