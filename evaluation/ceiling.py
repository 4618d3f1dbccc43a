"""The best that a result can be said to follow: re-detection on renders whose motion is known.

A portrait's head is drawn with a driver's motion, as a draft is. What was drawn is known exactly; what the detector
finds in the pictures is compared with it. No method that shows the same motion can be measured to follow better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from ..heads.drive import fit_driver
from ..heads.fit import rotation_matrix
from ..heads.motion import Motion
from ..heads.place import place, transfer
from ..heads.pose import PosedPortrait
from ..heads.scene import SUPERSAMPLING, base_affine, crop_points, draw_frames, move_head
from ..signals.track import BLENDSHAPES, FaceTrack
from .redetection import redetect
from .report import Run
from .score import Score

AT_ONCE = 8  # frames whose vertices are in memory together


def measure_ceiling(name: str, portrait: PosedPortrait, driver: FaceTrack, fps: float) -> Run:
    """One row: how well the detector finds the motion of the portrait's head as it does what a driver does.

    driver: in the pixels of its square, of the portrait's size.
    """
    motion = posed_motion(portrait, driver)
    found = redetect(_pictures(portrait, motion), known_track(portrait, motion), fps)
    errors = {f"{key}_error": score for key, score in found.errors.items()}
    scores = {"faces": Score.of(found.faces), **found.correlations, **errors}
    return Run(name=name, scores=scores, details={"driver_spans": found.driver_spans, "frames": len(motion)})


def posed_motion(portrait: PosedPortrait, driver: FaceTrack) -> Motion:
    """The motion that a draft makes of a driver, T frames."""
    basis, rig, fit = portrait.basis, portrait.rig, portrait.subject.place.fit
    fitted = fit_driver(basis, driver.landmarks, driver.blendshapes)
    expression, angles = transfer(basis, fitted, fit)
    return place(basis, fit, expression, angles, driver.landmarks * SUPERSAMPLING, base_affine(rig), rig.fine)


def known_track(portrait: PosedPortrait, motion: Motion) -> FaceTrack:
    """What a detector without error would find in the pictures of a motion: the head's own landmarks and weights."""
    rig, count = portrait.rig, len(motion)
    affine = base_affine(rig) / SUPERSAMPLING
    landmarks = np.concatenate(
        [
            crop_points(np.stack([rig.table.locate(p) for p in move_head(rig, portrait.subject, part)]), affine)
            for part in _parts(motion)
        ]
    )
    landmarks[..., 2] *= -1  # away from the camera
    matrices = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    matrices[:, :3, :3] = [rotation_matrix(*angles) for angles in motion.angles]
    shapes = rig.model.from_blendshapes(tuple(BLENDSHAPES)).T  # each weight goes to the blendshape of its name
    blendshapes = np.clip(motion.expression @ shapes, 0, 1).astype(np.float32)
    return FaceTrack(landmarks, blendshapes, matrices, np.ones(count, bool), (rig.size, rig.size))


def _pictures(portrait: PosedPortrait, motion: Motion) -> Iterator[np.ndarray]:
    rig = portrait.rig
    for part in _parts(motion):
        points = move_head(rig, portrait.subject, part)
        for picture, _ in draw_frames(rig, portrait.subject, points, base_affine(rig)):
            yield picture.round().clip(0, 255).astype(np.uint8)


def _parts(motion: Motion) -> Iterable[Motion]:
    for start in range(0, len(motion), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        yield replace(
            motion, expression=motion.expression[some], angles=motion.angles[some], shift=motion.shift[some],
            zoom=motion.zoom[some],
        )  # fmt: skip
