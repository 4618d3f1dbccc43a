"""What Pose Portrait does: the portrait's 3D head over a driver's face, frame by frame."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..heads.doubts import find_doubts
from ..heads.pose import PosedPortrait
from ..signals.crops import Crop, CropConfig, crop_track
from ..signals.track import FaceTrack, detect_face
from .faces import LANDMARKS_FPS, as_track, find_track
from .media import Progress, to_image, to_mask, to_uint8

log = logging.getLogger(__name__)

Motion = Literal["absolute", "relative"]


def find_driver(track: FaceTrack | None, images: Tensor | None, crop: Crop | None) -> FaceTrack:
    """The driver's track in the pixels of its square: as it is connected, else found in the whole images.

    Raises UserError if neither is connected, or the crop is of another number of images.
    """
    if track is not None:
        if track.image_size[0] != track.image_size[1]:
            height, width = track.image_size
            raise UserError(
                f"driver_track is of {width}x{height} pixels, not of a square: connect Face Crop's crop track"
            )
        return track
    if images is None or crop is None:
        raise UserError("nothing says what the driver does: connect driver_track, or both driver and crop")
    if len(crop.affines) != len(images):
        raise UserError(
            f"{len(images)} driver images but a crop of {len(crop.affines)}: connect the images it was cut from"
        )
    return crop_track(find_track(images, None, LANDMARKS_FPS, "largest", 1.0), crop)


def crop_scale(scale: float, adapter: Any) -> float:
    """What was chosen; 0 stands for the adapter's, else for Face Crop's usual value."""
    return scale or (CropConfig.scale if adapter is None else adapter.config.crop_scale)


def pose_portrait(
    portrait: Tensor, face: Any, driver: FaceTrack, size: int, scale: float, motion: Motion, reference: int
) -> tuple[Tensor, Tensor]:
    """Posed pictures (T, size, size, 3) and what the portrait shows of them (T, size, size); size 0: the driver's.

    Raises UserError for several portraits or an unknown reference frame, NoFaceError where the portrait is a profile.
    """
    if len(portrait) != 1:
        raise UserError(f"the portrait is one picture, got {len(portrait)}: take one with Get Image from Batch")
    if reference >= driver.num_frames:
        raise UserError(
            f"reference frame {reference} is not among the {driver.num_frames} of the driver: choose a smaller"
        )
    picture, count = to_uint8(portrait[0]), driver.num_frames
    found = as_track(face, portrait)
    size = size or driver.image_size[0]
    face = detect_face(picture) if found is None else found
    head = PosedPortrait(picture, face, size, scale)
    for doubt in find_doubts(face, head.actor.place.fit):
        log.warning("the portrait may not work well: %s", doubt)
    pictures, known = torch.empty(count, size, size, 3), torch.empty(count, size, size)
    step = Progress(count)
    landmarks = driver.landmarks * (size / driver.image_size[0])
    for t, frame in enumerate(head.pose(landmarks, driver.blendshapes, motion, reference)):
        step()
        pictures[t], known[t] = to_image(frame.picture[None])[0], to_mask(frame.known)
    return pictures, known
