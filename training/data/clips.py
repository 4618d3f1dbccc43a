"""Real and generated clips as self-driven samples: the driver is the same clip with its appearance changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from ...signals.crops import CropConfig, crop_landmarks, plan_crop, resample
from ...signals.motion import STEADY, compose, fit_similarity
from ...signals.regions import masked_frames
from ...signals.track import FaceTrack, track_faces
from .augmentation import disturb, driver_masks
from .pictures import PictureClip, draw_colours, lift_dark, mirror, to_bytes
from .sources import DataConfig, MediaFile, read_frames

MARGIN = 0.125  # of the crop's side, kept around it for small shifts
JUMP = 0.5  # of the eye distance: landmarks that move more between two frames mean a cut
SMALLEST_FACE = 22.0  # pixels between the outer eye corners
FAR = 4  # frames that a source keeps from the target's frames if it can


@dataclass(frozen=True)
class ClipSegment:
    """A piece of a clip without a cut, with the face in every frame."""

    media: MediaFile
    frames: np.ndarray  # (n, side, side, 3) uint8: the crop with a margin
    track: FaceTrack  # in pixels of `frames`

    def __len__(self) -> int:
        return len(self.frames)


def read_segments(media: MediaFile, config: DataConfig) -> list[ClipSegment]:
    """Track a clip, split it at cuts and losses of the face, crop the pieces; too short ones are dropped."""
    frames, fps = read_frames(media.path)
    track = track_faces(frames, fps, smoothing=None)
    segments, crop = [], CropConfig(size=config.size, scale=config.crop_scale)
    for start, stop in uncut_runs(track):
        piece = track[start:stop]
        if stop - start < config.frames or np.median(piece.eye_distance) < SMALLEST_FACE:
            continue
        segments.append(crop_segment(media, frames[start:stop], piece, crop))
    return segments


def uncut_runs(track: FaceTrack) -> list[tuple[int, int]]:
    """[start, stop) of the runs in which the face is there and does not jump."""
    step = np.linalg.norm(np.diff(track.landmarks[:, :, :2], axis=0), axis=2).mean(1)
    joined = track.present[1:] & track.present[:-1] & (step < JUMP * track.eye_distance[1:])
    borders = [0, *(np.flatnonzero(~joined) + 1).tolist(), track.num_frames]
    return [(a, b) for a, b in pairwise(borders) if track.present[a]]


def crop_segment(
    media: MediaFile, frames: Sequence[np.ndarray], track: FaceTrack, crop: CropConfig, over: ClipSegment | None = None
) -> ClipSegment:
    """The frames cropped by the usual rule, with a margin; or so that the face lies over another segment's, frame by
    frame the same person's motion, as at inference the driver's does over the result's."""
    affines = plan_crop(track, crop).affines.copy()
    affines[:, :, 2] += MARGIN * crop.size
    if over is not None:
        seen = crop_landmarks(track.landmarks, affines)
        points = [marks[:, list(STEADY), :2].reshape(-1, 2) for marks in (seen, over.track.landmarks)]
        affines = compose(fit_similarity(*points), affines)
    side = int(crop.size * (1 + 2 * MARGIN))
    pictures = np.stack([resample(f, affine, (side, side)) for f, affine in zip(frames, affines, strict=True)])
    landmarks = crop_landmarks(track.landmarks, affines)
    moved = FaceTrack(landmarks, track.blendshapes, track.matrices, track.present, (side, side))
    return ClipSegment(media, pictures, moved)


def make_self_driven(rng: np.random.Generator, segments: Sequence[ClipSegment], config: DataConfig) -> PictureClip:
    """One sample of config.frames frames from one of the segments."""
    chances = np.array([np.sqrt(len(segment)) for segment in segments])
    segment = segments[int(rng.choice(len(segments), p=chances / chances.sum()))]
    order = draw_order(rng, len(segment), config.frames)
    colours = draw_colours(rng, 0.35)
    rows = source_frames(rng, len(segment), int(order[0]), int(order[-1]) + 1, config.sources)
    target = to_bytes(colours(without_margin(segment.frames[order], config.size)))
    sources = to_bytes(colours(without_margin(segment.frames[rows], config.size)))
    driving, masks = change_driver(rng, segment, order, config)
    info = {
        "provider": "clip", "identities": [segment.media.name], "driver": segment.media.name,
        "licences": [segment.media.licence],
    }  # fmt: skip
    clip = PictureClip(sources, target, driving, masks, info)
    return mirror(clip) if rng.random() < 0.5 else clip


def draw_order(rng: np.random.Generator, length: int, frames: int) -> np.ndarray:
    """Indices (frames,) of a piece of a segment, sometimes every second frame."""
    stride = 2 if length >= 2 * frames and rng.random() < 0.3 else 1
    span = (frames - 1) * stride + 1
    start = int(rng.integers(0, length - span + 1))
    return np.arange(start, start + span, stride)


def without_margin(frames: np.ndarray, size: int) -> np.ndarray:
    """(n, size, size, 3) float32 from frames of a segment."""
    inner = int(MARGIN * size)
    return frames[:, inner : inner + size, inner : inner + size].astype(np.float32)


def source_frames(rng: np.random.Generator, length: int, start: int, stop: int, count: int) -> np.ndarray:
    """Frames that show the person at another time: outside [start, stop) and away from it where the clip allows."""
    frames = np.arange(length)
    for gap in (3 * FAR, FAR, 1):
        outside = frames[(frames < start - gap) | (frames >= stop + gap)]
        if len(outside) >= count:
            return rng.choice(outside, count, replace=False)
    return rng.choice(frames, count, replace=length < count)


def change_driver(
    rng: np.random.Generator, segment: ClipSegment, order: np.ndarray, config: DataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The segment's frames with other colours, sharpness, proportions and framing, masked; and the masks."""
    changes = config.driver
    warp = _FaceWarp(rng, segment.frames.shape[1], config.size, changes.affine)
    pictures = np.stack([warp.picture(frame) for frame in segment.frames[order]]).astype(np.float32)
    changed = draw_colours(rng, changes.colour)(pictures)
    blur = rng.uniform(0, 1.1)
    if blur > 0.4:
        changed = np.stack([cv2.GaussianBlur(picture, (0, 0), blur) for picture in changed])
    landmarks = warp.landmarks(segment.track.landmarks[order])
    masks = driver_masks(rng, landmarks, config.size, changes)
    changed = disturb(rng, changed, landmarks, changes)
    return masked_frames(to_bytes(lift_dark(changed, masks)), masks), masks


class _FaceWarp:
    """A fixed small change of proportions: anisotropic scale, shift, and a smooth wobble; the same in every frame."""

    def __init__(self, rng: np.random.Generator, side: int, size: int, strength: float = 1.0):
        self.size, self.centre = size, side / 2
        self.zoom = np.exp(strength * (rng.normal(0, 0.035) + rng.normal(0, (0.045, 0.045))))
        self.shift = strength * rng.normal(0, 0.012, 2) * size
        knots = (strength * rng.normal(0, 0.011 * size, (5, 5, 2))).astype(np.float32)
        self.wobble = cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC)
        x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
        grid = np.stack([x, y], 2) - size / 2 - self.shift
        self.map = (grid / self.zoom + self.centre + self.wobble - 0.5).astype(np.float32)

    def picture(self, frame: np.ndarray) -> np.ndarray:
        """(size, size, 3) from a segment's frame."""
        return cv2.remap(frame, self.map, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]

    def landmarks(self, landmarks: np.ndarray) -> np.ndarray:
        """(T, L, 3) landmarks of the segment where the warp puts them (the wobble to first order)."""
        flat = (landmarks[:, :, :2] - self.centre) * self.zoom + self.size / 2 + self.shift
        at = np.clip(flat, 0, self.size - 1).astype(int)
        flat = flat - self.wobble[at[..., 1], at[..., 0]] * self.zoom
        return np.concatenate([flat, landmarks[:, :, 2:] * self.zoom.mean()], 2).astype(np.float32)
