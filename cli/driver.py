"""The two readings of the driving clip: first its face is followed, then its frames become motion signals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import cv2
import numpy as np

from ..errors import NoFaceError, UserError
from ..heads.pose import PosedFrame, PosedPortrait
from ..signals.crops import Crop, CropConfig, crop_frame, crop_landmarks, crop_track, plan_crop
from ..signals.hold import held_squares
from ..signals.motion import align_motion
from ..signals.regions import RegionConfig, masked_frames, region_masks
from ..signals.track import FaceTrack, detect_face, track_faces
from ..signals.video import VideoReader
from .config import AnimateConfig

DRAFT_SCALE = 1.7  # side of a draft's square / size of the face
DRAFT_LEAST, DRAFT_MOST = 128, 1024  # pixels of its side


@dataclass(frozen=True)
class Source:
    """The portrait: full picture (H, W, 3), its face, the crop rule, its crop and the cropped picture (R, R, 3)."""

    picture: np.ndarray
    track: FaceTrack
    rule: CropConfig
    crop: Crop
    cropped: np.ndarray


@dataclass(frozen=True)
class DrivingFrames:
    """Some driving frames in crop pixels: pictures and masked pictures (F, R, R, 3), masks (F, 3, R, R), uint8."""

    first: int
    pictures: np.ndarray
    masked: np.ndarray
    masks: np.ndarray
    posed: np.ndarray | None = None  # (F, R, R, 3) the posed source
    known: np.ndarray | None = None  # (F, R, R) what of it the photo shows, 0 or 255
    fine: tuple[PosedFrame, ...] = ()  # the posed source as large as the portrait, for its detail


def read_source(picture: np.ndarray, cfg: AnimateConfig, rule: CropConfig) -> Source:
    """The portrait's face, cropped. Raises NoFaceError."""
    try:
        track = detect_face(picture, select=cfg.source_face)
    except NoFaceError as error:
        raise NoFaceError(f"source {cfg.source}: {error}") from error
    crop = plan_crop(track, rule)
    return Source(picture, track, rule, crop, crop_frame(picture, crop.affines[0], crop.size))


def follow_driver(reader: VideoReader, cfg: AnimateConfig, on_frame: Callable[[int], None]) -> FaceTrack:
    """First reading: the face in every frame; frames are not kept. Raises MediaError or NoFaceError."""
    try:
        return track_faces(reader, float(reader.info.fps), select=cfg.select_face, on_frame=on_frame)
    except NoFaceError as error:
        raise NoFaceError(f"driving video {cfg.driving}: {error}") from error


def draft_rule(picture: np.ndarray, cfg: AnimateConfig) -> CropConfig:
    """The crop rule of a draft: as many pixels as the portrait has there, or --resolution. Raises NoFaceError."""
    scale = cfg.crop_scale or DRAFT_SCALE
    if cfg.resolution:
        return CropConfig(size=cfg.resolution, scale=scale)
    return CropConfig(size=own_size(read_source(picture, cfg, CropConfig(size=DRAFT_LEAST, scale=scale))), scale=scale)


def own_size(source: Source) -> int:
    """Side in pixels of the source's square at the portrait's own resolution, within what a draft may have."""
    side = source.rule.size / float(source.crop.affines[0, 0, 0])
    return int(np.clip(round(side / 16) * 16, DRAFT_LEAST, DRAFT_MOST))


class DrivingSignals:
    """Second reading: the driver's frames in order, cropped like the source and masked to the chosen regions."""

    def __init__(self, reader: VideoReader, track: FaceTrack, source: Source, cfg: AnimateConfig) -> None:
        if cfg.motion == "relative" and cfg.reference >= track.num_frames:
            raise UserError(f"--reference {cfg.reference} is not among the driver's {track.num_frames} frames")
        own = plan_crop(track, source.rule)
        source_track = crop_track(source.track, source.crop)
        mode = "relative" if cfg.motion == "relative" else "absolute"
        self.crop = align_motion(own, track, source_track, mode, cfg.reference)
        self._track = track
        self._posed: Iterator[PosedFrame] | None = None
        self._regions = RegionConfig(regions=cfg.regions, brows=cfg.brows, dilation=cfg.dilation)
        self._squares = enumerate(held_squares(reader, track, self.crop, float(reader.info.fps)))

    def pose(self, source: Source, cfg: AnimateConfig, size: int | None = None) -> None:
        """From now on `take` also gives the source posed by its 3D head, drawn at `size`. Raises NoFaceError."""
        size = size or source.rule.size
        portrait = PosedPortrait(source.picture, source.track, size, source.rule.scale)
        landmarks = crop_landmarks(self._track.landmarks, self.crop.affines) * (size / source.rule.size)
        mode = "relative" if cfg.motion == "relative" else "absolute"
        self._posed = portrait.pose(landmarks, self._track.blendshapes, mode, cfg.reference)

    def take(self, count: int) -> DrivingFrames:
        """The next `count` frames. Raises UserError if the file gives fewer than in the first reading."""
        taken = list(islice(self._squares, count))
        if len(taken) < count:
            raise UserError("the driving video changed while it was read: run again")
        first, size = taken[0][0], self.crop.size
        chosen = slice(first, first + count)
        affines = self.crop.affines[chosen]
        pictures = np.stack([square for _, square in taken])
        landmarks = crop_landmarks(self._track.landmarks[chosen], affines)
        masks = region_masks(landmarks, (size, size), self._regions)
        frames = DrivingFrames(first, pictures, masked_frames(pictures, masks), masks)
        if self._posed is None:
            return frames
        posed = tuple(islice(self._posed, count))
        return replace(
            frames,
            posed=np.stack([_resized(p.picture, size) for p in posed]),
            known=np.stack([_resized(p.known, size) for p in posed]),
            fine=posed,
        )


def _resized(picture: np.ndarray, size: int) -> np.ndarray:
    return picture if len(picture) == size else cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
