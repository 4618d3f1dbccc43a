"""Is a face found in the same place in the mirrored picture? Where it is covered, or none, it is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .landmarker import open_landmarker
from .search import detect_at
from .track import FaceTrack

EYES = (
    np.array([33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7]),
    np.array([263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249]),
)  # outlines, point by point each other's mirror image
RIGHT_LIPS = np.array([61, 37, 267, 84, 82, 87, 0, 17, 13, 14])
LEFT_LIPS = np.array([291, 267, 37, 314, 312, 317, 0, 17, 13, 14])


@dataclass(frozen=True)
class MirrorGap:
    """How far landmarks of the picture and of its mirror image lie apart, over the distance between the eyes."""

    eyes: float  # of the worse eye
    mouth: float


def mirror_gap(picture: np.ndarray, face: FaceTrack) -> MirrorGap | None:
    """The gap for a face (one frame) of a picture (H, W, 3) uint8; None if the mirrored picture has no face there."""
    width = picture.shape[1]
    left, top, right, bottom = face.boxes[0]
    landmarker = open_landmarker()
    try:
        box = np.array([width - right, top, width - left, bottom])
        found = detect_at(landmarker, np.ascontiguousarray(picture[:, ::-1]), box)
    finally:
        landmarker.close()
    if found is None:
        return None
    here, there = face.landmarks[0, :, :2], found.landmarks[:, :2] * [-1, 1] + [width, 0]

    def apart(own: np.ndarray, mirrored: np.ndarray) -> float:
        return float(np.linalg.norm(here[own] - there[mirrored], axis=1).mean() / face.eye_distance[0])

    return MirrorGap(max(apart(*EYES), apart(*EYES[::-1])), apart(RIGHT_LIPS, LEFT_LIPS))
