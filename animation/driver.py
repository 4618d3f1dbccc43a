"""The two readings of the driving clip: first its face is followed, then its frames become motion signals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from ..errors import NoFaceError, UserError
from ..signals.crops import Crop, CropConfig, crop_frame, crop_landmarks, crop_track, plan_crop
from ..signals.hold import first_needed, numbered_squares
from ..signals.motion import align_motion
from ..signals.opencv import cv2
from ..signals.regions import RegionConfig, masked_frames, region_masks
from ..signals.track import FaceTrack, detect_face, track_faces
from .config import AnimateConfig
from .media import Clip
from .moves import changed_motion, shown_regions

if TYPE_CHECKING:
    from ..heads.face_motion import FaceMotion
    from ..heads.pose import PosedFrame, PosedPortrait  # brings torch: seconds, spent beside other work

CHANGED = "the driving video changed while it was read: run again"
LEAST_SEEN = 0.1  # share of the frames that must show the face
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


def find_source(picture: np.ndarray, cfg: AnimateConfig) -> FaceTrack:
    """The portrait's face. Raises NoFaceError."""
    try:
        return detect_face(picture, select=cfg.source_face)
    except NoFaceError as error:
        raise NoFaceError(f"source {cfg.source}: {error}") from error


def cut_source(picture: np.ndarray, track: FaceTrack, rule: CropConfig) -> Source:
    """The portrait cropped about its face."""
    crop = plan_crop(track, rule)
    return Source(picture, track, rule, crop, crop_frame(picture, crop.affines[0], crop.size))


def follow_driver(reader: Clip, cfg: AnimateConfig, on_frame: Callable[[int], None]) -> FaceTrack:
    """First reading: the face in every frame; frames are not kept.

    Raises MediaError or NoFaceError; the latter too, unless `cfg.force`, if the face is hardly ever seen.
    """
    try:
        track = track_faces(reader, float(reader.info.fps), select=cfg.select_face, on_frame=on_frame)
    except NoFaceError as error:
        raise NoFaceError(f"driving video {cfg.driving}: {error}") from error
    seen = int(track.present.sum())
    if seen < LEAST_SEEN * track.num_frames and not cfg.force:
        raise NoFaceError(
            f"driving video {cfg.driving}: the face is seen in only {seen} of {track.num_frames} frames; "
            "choose a clip or a --start that shows it, or add --force to have the rest interpolated"
        )
    return track


def draft_source(picture: np.ndarray, cfg: AnimateConfig) -> Source:
    """The portrait as a draft wants it: as many pixels as it has there, or --resolution. Raises NoFaceError."""
    scale = cfg.crop_scale or DRAFT_SCALE
    track = find_source(picture, cfg)
    source = cut_source(picture, track, CropConfig(size=cfg.resolution or DRAFT_LEAST, scale=scale))
    return source if cfg.resolution else cut_source(picture, track, CropConfig(size=own_size(source), scale=scale))


def own_size(source: Source) -> int:
    """Side in pixels of the source's square at the portrait's own resolution, within what a draft may have."""
    side = source.rule.size / float(source.crop.affines[0, 0, 0])
    return int(np.clip(round(side / 16) * 16, DRAFT_LEAST, DRAFT_MOST))


class DrivingSignals:
    """Second reading: the driver's frames in order, cropped like the source and masked to the chosen regions.

    `first`: the frame that `take` begins with. `moves`: after `pose`, the motion of the frames that are wanted.
    """

    moves: FaceMotion | None = None

    def __init__(self, reader: Clip, track: FaceTrack, source: Source, cfg: AnimateConfig, first: int = 0) -> None:
        self.num_frames = track.num_frames
        if cfg.motion == "relative" and cfg.reference >= track.num_frames:
            raise UserError(f"--reference {cfg.reference} is not among the driver's {track.num_frames} frames")
        own = plan_crop(track, source.rule)
        source_track = crop_track(source.track, source.crop)
        mode = "relative" if cfg.motion == "relative" else "absolute"
        self.crop = align_motion(own, track, source_track, mode, cfg.reference)
        self._track, self._fps = track, float(reader.info.fps)
        self._posed: Iterator[PosedFrame] | None = None
        self._regions = RegionConfig(regions=cfg.regions, brows=cfg.brows, dilation=cfg.dilation)
        self._reader, self._first = reader, first
        self._squares = self._read(range(first, track.num_frames), first)

    def pose(self, source: Source, cfg: AnimateConfig, portrait: PosedPortrait, last: int | None = None) -> None:
        """From now on `take` also gives the source posed by its 3D head, the portrait, as large as that is drawn.

        last: the frame before which posing ends; None: all.
        """
        from ..heads.face_motion import fit_motion

        landmarks = crop_landmarks(self._track.landmarks, self.crop.affines)
        own = fit_motion(portrait.basis, landmarks, self._track.blendshapes, source.rule.size, self._fps)
        wanted = min(self.num_frames, cfg.max_frames or self.num_frames)
        moves = changed_motion(own, cfg, wanted)
        self.moves = moves[:wanted]
        if not cfg.draft:
            self._regions = replace(self._regions, regions=shown_regions(moves, self._regions.regions))
        mode = "relative" if cfg.motion == "relative" else "absolute"
        self._posed = portrait.perform(moves, mode, cfg.reference, self._first, last)

    def posed(self) -> Iterator[PosedFrame]:
        """The frames of the posed source from the first on, after `pose`, instead of `take`."""
        assert self._posed is not None
        return self._posed

    def close(self) -> None:
        """End both readings, wherever they are."""
        for reading in (self._posed, self._squares):
            if isinstance(reading, Generator):
                reading.close()

    def show(self, numbers: Sequence[int]) -> Iterator[DrivingFrames]:
        """The frames of these rising numbers, counted from 0, instead of `take`. Raises UserError likewise."""
        left = list(numbers)
        for square in islice(self._read(numbers, min(numbers, default=0)), len(numbers)):
            left.remove(square[0])
            yield self._cut([square])
        if left:
            raise UserError(CHANGED)

    def take(self, count: int) -> DrivingFrames:
        """The next `count` frames. Raises UserError if the file gives fewer than in the first reading."""
        taken = list(islice(self._squares, count))
        if len(taken) < count:
            raise UserError(CHANGED)
        frames = self._cut(taken)
        if self._posed is None:
            return frames
        posed, size = tuple(islice(self._posed, count)), self.crop.size
        return replace(
            frames,
            posed=np.stack([_resized(p.picture, size) for p in posed]),
            known=np.stack([_resized(p.known, size) for p in posed]),
            fine=posed,
        )

    def _read(self, wanted: Collection[int], first: int) -> Iterator[tuple[int, np.ndarray]]:
        """Number and square of the frames that are wanted; `first` is the smallest of them."""
        begin = first_needed(self._track, first)
        frames = enumerate(self._reader.frames(begin), begin)
        return numbered_squares(frames, self._track, self.crop, self._fps, wanted)

    def _cut(self, taken: list[tuple[int, np.ndarray]]) -> DrivingFrames:
        """Successive numbered squares as signals."""
        first, size = taken[0][0], self.crop.size
        chosen = slice(first, first + len(taken))
        pictures = np.stack([square for _, square in taken])
        landmarks = crop_landmarks(self._track.landmarks[chosen], self.crop.affines[chosen])
        masks = region_masks(landmarks, (size, size), self._regions)
        return DrivingFrames(first, pictures, masked_frames(pictures, masks), masks)


def _resized(picture: np.ndarray, size: int) -> np.ndarray:
    return picture if len(picture) == size else cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
