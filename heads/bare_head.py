"""The textured head as an animation of its own: what the paper's kind of model must beat (evaluation's baseline)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..signals.crops import CropConfig, crop_track, face_frame, plan_crop
from ..signals.track import BLENDSHAPES, FaceTrack
from .model import HeadModel
from .motion import Motion
from .scene import Portrait, Rig, Subject, base_affine, draw, move_head

AT_ONCE = 16  # frames whose heads are in memory together


def perform(rig: Rig, portrait: Portrait, driver: FaceTrack) -> Iterator[np.ndarray]:
    """Squares (size, size, 3) uint8 of the portrait's own head making the driver's motion, frame by frame.

    Expression, angles, place and size are the driver's as tracked, without learning and without limits; what is not
    skin of the face is the photo, warped along.
    """
    subject = Subject(portrait, portrait, portrait.skin, rig.model.person(portrait.fit.identity))
    affine = base_affine(rig)
    for start in range(0, driver.num_frames, AT_ONCE):
        part = slice(start, start + AT_ONCE)
        for points in move_head(rig, subject, motion_of(rig.model, driver, rig.size, rig.crop_scale, part)):
            yield draw(rig, subject, points, affine).round().clip(0, 255).astype(np.uint8)


def motion_of(model: HeadModel, driver: FaceTrack, size: int, crop_scale: float, part: slice = slice(None)) -> Motion:
    """What the driver does in the frames `part`, counted from a face that its crop would have in the middle."""
    rule = CropConfig(size=size, scale=crop_scale)
    centres, sizes = face_frame(crop_track(driver, plan_crop(driver, rule)).landmarks)
    expression = np.clip(driver.blendshapes[part], 0, 1) @ model.from_blendshapes(tuple(BLENDSHAPES))
    return Motion(
        expression=expression.astype(np.float32),
        angles=driver.euler[part],
        shift=(centres[part] / size - 0.5).astype(np.float32),
        zoom=(sizes[part] * crop_scale / size).astype(np.float32),
    )
