"""Cross-identity pairs made elsewhere, by LivePortrait for instance: one folder for each.

    FOLDER/<pair>/source.png    the person to be animated (a picture; a video serves with its first frame with a face)
    FOLDER/<pair>/driving.mp4   another person
    FOLDER/<pair>/target.mp4    the source's person making the motion of driving.mp4, frame by frame

Any picture and video format will do; the names before the dot count. For LivePortrait, copy its two inputs and its
output (not the one called `_concat`) there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import NoFaceError, UserError
from ...signals.crops import CropConfig
from ...signals.track import FaceTrack, detect_face, track_faces
from .clips import (
    SMALLEST_FACE,
    ClipSegment,
    change_driver,
    crop_segment,
    draw_order,
    source_frames,
    uncut_runs,
    without_margin,
)
from .pictures import PictureClip, draw_colours, mirror, to_bytes
from .sources import DataConfig, MediaFile, read_frames

log = logging.getLogger(__name__)

PARTS = ("source", "driving", "target")


@dataclass(frozen=True)
class PairSegment:
    """A piece of a pair without a cut: target and driver make the same motion."""

    source: np.ndarray  # (1, side, side, 3) uint8: the crop with a margin
    target: ClipSegment
    driver: ClipSegment

    def __len__(self) -> int:
        return len(self.target)


def parts_of(folder: Path) -> dict[str, Path]:
    """The three files of a pair. Raises UserError if one is missing or there are two of a name."""
    found = {part: sorted(p for p in folder.glob(f"{part}.*") if p.is_file()) for part in PARTS}
    for part, files in found.items():
        if len(files) != 1:
            have = ", ".join(p.name for p in files) or "none"
            raise UserError(f"{folder} needs one {part} file (such as {part}.{_usual(part)}), it has {have}")
    return {part: files[0] for part, files in found.items()}


def _usual(part: str) -> str:
    return "png" if part == "source" else "mp4"


def read_pair(media: MediaFile, config: DataConfig) -> list[PairSegment]:
    """Track both clips of a pair, cut them where either has a cut or no face, crop them, the driver over the target."""
    parts = parts_of(media.path)
    source = _crop_source(media, parts["source"], config)
    clips = {part: read_frames(parts[part]) for part in ("target", "driving")}
    length = min(len(frames) for frames, _ in clips.values())
    if max(len(frames) for frames, _ in clips.values()) > length + 1:
        log.warning(
            "%s: target and driving differ in length; frames after the first %d are left out", media.name, length
        )
    tracks = {part: track_faces(frames[:length], fps, smoothing=None) for part, (frames, fps) in clips.items()}
    crop = CropConfig(size=config.size, scale=config.crop_scale)
    segments = []
    for start, stop in _common(uncut_runs(tracks["target"]), uncut_runs(tracks["driving"])):
        pieces = {part: track[start:stop] for part, track in tracks.items()}
        if stop - start < config.frames or min(np.median(p.eye_distance) for p in pieces.values()) < SMALLEST_FACE:
            continue
        target = crop_segment(media, clips["target"][0][start:stop], pieces["target"], crop)
        driver = crop_segment(media, clips["driving"][0][start:stop], pieces["driving"], crop, over=target)
        segments.append(PairSegment(source, target, driver))
    if not segments:
        log.warning(
            "%s left out: no %d frames in a row with a large enough face in both clips", media.name, config.frames
        )
    return segments


def _crop_source(media: MediaFile, path: Path, config: DataConfig) -> np.ndarray:
    for frame in read_frames(path)[0]:
        try:
            track: FaceTrack = detect_face(frame)
        except NoFaceError:
            continue
        crop = CropConfig(size=config.size, scale=config.crop_scale, position="locked")
        return crop_segment(media, [frame], track, crop).frames
    raise NoFaceError(f"no face in {path}: take the pair {media.name} out")


def _common(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where the runs of both overlap."""
    overlaps = [(max(a, c), min(b, d)) for a, b in one for c, d in other]
    return [(start, stop) for start, stop in overlaps if start < stop]


def make_pair_clip(rng: np.random.Generator, segments: Sequence[PairSegment], config: DataConfig) -> PictureClip:
    """One sample of config.frames frames from one of the segments; the first source is the pair's own picture."""
    chances = np.array([np.sqrt(len(segment)) for segment in segments])
    segment = segments[int(rng.choice(len(segments), p=chances / chances.sum()))]
    order = draw_order(rng, len(segment), config.frames)
    colours = draw_colours(rng, 0.35)
    rows = source_frames(rng, len(segment), int(order[0]), int(order[-1]) + 1, config.sources - 1)
    target = to_bytes(colours(without_margin(segment.target.frames[order], config.size)))
    shown = np.concatenate([segment.source, segment.target.frames[rows]])
    sources = to_bytes(colours(without_margin(shown, config.size)))
    driving, masks = change_driver(rng, segment.driver, order, config)
    media = segment.target.media
    info = {"provider": "pairs", "identities": [media.name], "driver": media.name, "licences": [media.licence]}
    clip = PictureClip(sources, target, driving, masks, info)
    return mirror(clip) if rng.random() < 0.5 else clip
