"""What the nodes of `signals` do: IMAGE and MASK in, the signals layer at work frame by frame, IMAGE and MASK out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..signals.crops import Crop, CropConfig, crop_frame, crop_track, mask_frame, plan_crop, plan_squares
from ..signals.hold import held_squares
from ..signals.landmarker import choose_runner
from ..signals.landmarks import track_from_landmarks
from ..signals.motion import align_motion
from ..signals.paste import paste_back, scaled_affine
from ..signals.preview import draw_track, pick_frames
from ..signals.regions import REGIONS, RegionConfig, masked_frames, region_masks
from ..signals.smoothing import OneEuro
from ..signals.track import FaceTrack, detect_face, track_faces
from .media import Progress, frames_of, mask_to_uint8, to_image, to_mask, to_uint8

SIZE = 512  # pixels of a crop that nothing else decides
LANDMARKS_FPS = 25.0  # landmarks that are connected in place of a track come without a frame rate; only smoothing asks


def find_track(images: Tensor, landmarks: Any, fps: float, select: str, smoothing: float) -> FaceTrack:
    """The face in every image; of one image alone it is looked for more closely. `smoothing` 0 is none, 1 the usual."""
    euro = OneEuro(min_cutoff=1 / smoothing, beta=15 / smoothing) if smoothing > 0 else None
    if landmarks is not None:
        return track_from_landmarks(landmarks, fps, num_frames=len(images), select=select, smoothing=euro)
    if len(images) == 1:
        return detect_face(to_uint8(images[0]), select=select)
    return track_faces(frames_of(images), fps, select=select, smoothing=euro, on_frame=Progress(len(images)))


def found_by(landmarks: Any) -> list[str]:
    """One line that says which program found the faces; none where the landmarks came from another node."""
    return [choose_runner().name] if landmarks is None else []


def as_track(value: Any, images: Tensor) -> FaceTrack | None:
    """What is connected as a track: none, ours, or landmarks of ComfyUI's own detector; one track fits all images.

    Raises UserError if it is of another number of images or another size.
    """
    if value is None:
        return None
    track = track_from_landmarks(value, LANDMARKS_FPS) if isinstance(value, dict) else value
    size = (images.shape[1], images.shape[2])
    if track.image_size != size:
        was, now = (f"{s[1]}x{s[0]}" for s in (track.image_size, size))
        raise UserError(f"the track is of {was} pixels, the images have {now}: track the images that you connect here")
    if track.num_frames not in (1, len(images)):
        raise UserError(f"{len(images)} images but a track of {track.num_frames}: connect the images that were tracked")
    return track if track.num_frames == len(images) else track[np.zeros(len(images), int)]


def draw_tracks(images: Tensor, track: FaceTrack, count: int) -> Tensor:
    """At most `count` images, evenly spread, with the landmarks and regions drawn on them."""
    chosen = pick_frames(len(images), count)
    drawn = [draw_track(to_uint8(images[t]), track.landmarks[t], present=bool(track.present[t])) for t in chosen]
    return to_image(np.stack(drawn))


def crop_rule(size: int, scale: float, shift_up: float, position: Any, adapter: Any) -> CropConfig:
    """What was chosen; size and scale 0 stand for the adapter's, where one is connected, else for the usual ones."""
    own = None if adapter is None else adapter.config
    return CropConfig(
        size=size or (own.resolution if own else SIZE),
        scale=scale or (own.crop_scale if own else CropConfig.scale),
        shift_y=shift_up,
        position=position,
    )


def crop_images(images: Tensor, crop: Crop, track: FaceTrack | None = None) -> Tensor:
    """(N, size, size, 3): the square of every image; where the track has no face, it is held from its neighbours."""
    frames = frames_of(images, Progress(len(images)))
    if track is None:
        cut = [crop_frame(f, a, crop.size) for f, a in zip(frames, crop.affines, strict=True)]
    else:
        cut = list(held_squares(frames, track, crop, LANDMARKS_FPS))
    return to_image(np.stack(cut))


def plan_images_crop(images: Tensor, track: FaceTrack | None, mask: Tensor | None, cfg: CropConfig) -> Crop:
    """The square around the track, or around what the mask marks. Raises UserError if there is neither."""
    if mask is not None:
        masks = mask_to_uint8(mask, len(images), (images.shape[1], images.shape[2]))
        return plan_squares(*mask_frame(masks), cfg)
    if track is None:
        raise UserError("nothing says where the face is: connect a face track, or a mask over the face")
    return plan_crop(track, cfg)


def move_crop(crop: Crop, track: FaceTrack | None, motion: str, source: FaceTrack | None, reference: int) -> Crop:
    """The crop for absolute or relative motion. Raises UserError naming what relative motion lacks."""
    if motion == "absolute":
        return crop
    if track is None or source is None:
        raise UserError("relative motion needs the track of these images and the source's: connect track, source_track")
    if source.image_size != (crop.size, crop.size):
        raise UserError(
            f"source_track is of {source.image_size[1]}x{source.image_size[0]} pixels but must be of "
            f"the source's crop, {crop.size}x{crop.size}: connect the crop track of the source's Face Crop"
        )
    if reference >= track.num_frames:
        raise UserError(f"reference frame {reference} is not among the {track.num_frames} images: choose a smaller one")
    return align_motion(crop, track, source, "relative", reference)


def cropped_track(track: FaceTrack | None, crop: Crop) -> FaceTrack | None:
    """The track in the pixels of the crop."""
    return None if track is None else crop_track(track, crop)


def mask_regions(
    images: Tensor, track: FaceTrack | None, cfg: RegionConfig, drawn: dict[str, Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Masked images, and masks (N, 3, H, W) as tensors; `drawn` masks by region stand in for the track's.

    Raises UserError if a region that is switched on has neither.
    """
    size = (images.shape[1], images.shape[2])
    masked, masks = torch.empty_like(images[..., :3]), torch.empty(len(images), len(REGIONS), *size)
    given = {r: mask_to_uint8(m, len(images), size) for r, m in drawn.items() if m is not None and r in cfg.regions}
    if track is None and set(cfg.regions) - set(given):
        lacking = ", ".join(r for r in cfg.regions if r not in given)
        raise UserError(f"nothing says where the {lacking} are: connect a face track or a mask, or switch them off")
    progress = Progress(len(images))
    for t, frame in enumerate(frames_of(images, progress)):
        of_frame = _frame_masks(track, t, size, cfg)
        for region, mask in given.items():
            of_frame[0, REGIONS.index(region)] = mask[t]
        masked[t] = to_image(masked_frames(frame[None], of_frame))[0]
        masks[t] = to_mask(of_frame[0])
    return masked, masks.amax(1), masks


def _frame_masks(track: FaceTrack | None, t: int, size: tuple[int, int], cfg: RegionConfig) -> np.ndarray:
    if track is None:
        return np.zeros((1, len(REGIONS), *size), np.uint8)
    return region_masks(track.landmarks[t : t + 1], size, cfg)


def paste_images(
    images: Tensor, full: Tensor, crop: Crop, keep: Tensor | None, *, feather: float, colour_match: bool
) -> tuple[Tensor, Tensor]:
    """The full picture with each image put back, and the masks used. Raises UserError for numbers that do not fit."""
    count, side = len(images), images.shape[1]
    if images.shape[2] != side:
        raise UserError(
            f"an animated crop is square, the images are {images.shape[2]}x{side}: connect the crop's frames"
        )
    for what, number in (("full images", len(full)), ("places of the crop", len(crop.affines))):
        if number not in (1, count):
            raise UserError(f"{count} images but {number} {what}: there must be one for all, or one for each image")
    kept = None if keep is None else mask_to_uint8(keep, count, (side, side))
    pasted = torch.empty(count, *full.shape[1:3], 3)
    masks = torch.empty(count, *full.shape[1:3])
    below = to_uint8(full[0])
    for t, frame in enumerate(frames_of(images, Progress(count))):
        below = to_uint8(full[t]) if t and len(full) > 1 else below
        affine = scaled_affine(crop.affines[min(t, len(crop.affines) - 1)], side, crop.size)
        mask = None if kept is None else kept[t]
        picture, alpha = paste_back(below, frame, affine, feather, colour_match, mask)
        pasted[t], masks[t] = to_image(picture[None])[0], to_mask(alpha)
    return pasted, masks
