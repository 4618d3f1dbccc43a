"""What Pose Portrait does: the portrait's 3D head over a driver's face, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..heads.doubts import look_for_doubts, warn
from ..heads.face_motion import FaceMotion
from ..heads.pose import PosedFrame, PosedPortrait
from ..signals.crops import Crop, CropConfig, crop_track, plan_crop, zoom_of
from ..signals.track import FaceTrack, detect_face
from .faces import LANDMARKS_FPS, as_track, find_track
from .media import Progress, to_image, to_mask, to_uint8
from .progress import ahead, cancellable

Motion = Literal["absolute", "relative"]
SIDE_STEP, SIDES = 16, (128, 1024)  # sides of the portrait's own square, pixels: multiples of, and from - to
KEPT = 2  # heads of portraits
_KEPT: dict[tuple, PosedPortrait] = {}


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
    if reference >= driver.num_frames:
        raise UserError(
            f"reference frame {reference} is not among the {driver.num_frames} of the driver: choose a smaller"
        )
    size = size or driver.image_size[0]
    head = pose_head(portrait, face, size, scale)
    landmarks = driver.landmarks * (size / driver.image_size[0])
    return _drawn(head.pose(landmarks, driver.blendshapes, motion, reference), driver.num_frames, size)


def square_side(track: FaceTrack | None) -> int:
    """Side in pixels of the squares that a track is of; 0 without one."""
    return 0 if track is None else find_driver(track, None, None).image_size[0]


def perform_motion(
    portrait: Tensor, face: Any, moves: FaceMotion, size: int, scale: float, motion: Motion, reference: int
) -> tuple[Tensor, Tensor]:
    """As `pose_portrait`, by a motion; size 0: as large as the portrait is there. Errors likewise."""
    if reference >= len(moves):
        raise UserError(f"reference frame {reference} is not among the {len(moves)} of the motion: choose a smaller")
    head = pose_head(portrait, face, size, scale)
    return _drawn(head.perform(moves, motion, reference), len(moves), head.rig.size)


def pose_head(portrait: Tensor, face: Any, size: int, scale: float) -> PosedPortrait:
    """The portrait on its head, the last few of which are kept: a slider then only draws. Errors as above."""
    if len(portrait) != 1:
        raise UserError(f"the portrait is one picture, got {len(portrait)}: take one with Get Image from Batch")
    picture, found = to_uint8(portrait[0]), as_track(face, portrait)
    named = b"" if found is None else found.landmarks.tobytes() + found.blendshapes.tobytes()
    key = (sha256(picture.tobytes() + named).hexdigest(), picture.shape, size, scale)
    head = _KEPT.pop(key, None)
    if head is None:
        there = cancellable(lambda: detect_face(picture)) if found is None else found
        head = cancellable(lambda: PosedPortrait(picture, there, size or own_side(there, scale), scale))
        fit = head.subject.place.fit
        warn(cancellable(lambda: look_for_doubts(picture, there, fit)))
    _KEPT[key] = head
    while len(_KEPT) > KEPT:
        del _KEPT[next(iter(_KEPT))]
    return head


def own_side(face: FaceTrack, scale: float) -> int:
    """Side in pixels of a portrait's square at its own resolution, a multiple of 16 within limits."""
    there = SIDE_STEP / float(zoom_of(plan_crop(face, CropConfig(size=SIDE_STEP, scale=scale)).affines)[0])
    return int(min(max(ceil(there / SIDE_STEP) * SIDE_STEP, SIDES[0]), SIDES[1]))


def _drawn(frames: Iterator[PosedFrame], count: int, size: int) -> tuple[Tensor, Tensor]:
    pictures, known = torch.empty(count, size, size, 3), torch.empty(count, size, size)
    step = Progress(count)
    for t, frame in enumerate(ahead(frames)):
        step()
        pictures[t], known[t] = to_image(frame.picture[None])[0], to_mask(frame.known)
    return pictures, known
