"""A driver seen live: each face becomes a frame of motion at once, without knowing what follows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..signals.crops import CropConfig, crop_landmarks, plan_crop
from ..signals.smoothing import OneEuroStream
from ..signals.track import FaceTrack
from .drive import Likeness, fit_frames, fit_likeness
from .face_motion import FaceMotion, of_driver
from .solve import FaceBasis

LEARNING = (1, 6, 24)  # after so many faces the driver's looks are fitted anew
LATEST = 0.5  # share of the newest blendshapes; the rest is from the frame before


class LiveDriver:
    """Turns faces, as they come, into motion.

    The square is that of the first face, until `restart`. The driver's looks are learnt while the first faces are
    seen, so that the first one already moves the portrait.

    Args:
        basis: from `open_rig`. size: pixels of the square. scale: side of the square / size of the face.
        fps: faces a second at most, for the smoothing.
    """

    def __init__(self, basis: FaceBasis, size: int, scale: float, fps: float) -> None:
        self._basis, self._rule, self._fps = basis, CropConfig(size=size, scale=scale), fps
        self.restart()

    def restart(self) -> None:
        """Forget the driver: the next face is that of a driver never seen, in a new square."""
        self._smooth = OneEuroStream()
        self._affine: np.ndarray | None = None
        self._seen: list[tuple[np.ndarray, np.ndarray]] = []  # the first faces
        self._likeness: Likeness | None = None
        self._shapes: np.ndarray | None = None
        self._size = 0.0

    def move(self, face: FaceTrack, seconds: float) -> FaceMotion:
        """One frame of motion from one frame of a face, `seconds` after the last one."""
        marks = self._smooth(face.landmarks[0], seconds, float(face.eye_distance[0]))[None]
        if self._affine is None:
            self._affine = plan_crop(face, self._rule).affines
        marks = crop_landmarks(marks, self._affine)
        shapes = face.blendshapes[0]
        steady = shapes if self._shapes is None else LATEST * shapes + (1 - LATEST) * self._shapes
        self._shapes = steady
        if len(self._seen) < LEARNING[-1]:
            self._seen.append((marks[0], shapes))
            if len(self._seen) in LEARNING:
                self._learn()
        assert self._likeness is not None
        driver = fit_frames(self._basis, self._likeness, marks, steady[None])
        return of_driver(self._basis, driver, self._rule.size, self._fps, self._size)

    def _learn(self) -> None:
        """Who the driver is, and how large, from the faces so far."""
        marks, shapes = (np.stack(rows) for rows in zip(*self._seen, strict=True))
        self._likeness = fit_likeness(self._basis, marks, shapes)
        driver = fit_frames(self._basis, self._likeness, marks, shapes)
        self._size = float(np.median(of_driver(self._basis, driver, self._rule.size, self._fps).size))


def with_strength(motion: FaceMotion, strength: float) -> FaceMotion:
    """The motion so strong in every control, its offsets kept."""
    return replace(motion, strength=motion.strength * np.float32(strength))
