"""Fitted portraits and tracked clips of a configuration, kept in a cache folder, because making them takes time."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import NoFaceError, UserError
from ...heads.fit import Camera, HeadFit
from ...heads.landmarks import TABLE, load_table
from ...heads.model import load_head_model
from ...heads.scene import MARGIN, Portrait, Rig, make_portrait, restore_portrait
from ...heads.texture import anatomy
from ...signals.track import FaceTrack, detect_face
from .clips import ClipSegment, read_segments
from .pairs import PairSegment, parts_of, read_pair
from .rendered_pairs import Identities
from .sources import DataConfig, MediaFile, list_media, read_frames

log = logging.getLogger(__name__)

MOST_TURNED = 24.0  # degrees: a photo shows too little of a head turned further
WORST_FIT = 0.06  # of the eye distance: worse fits are left out
LEAST_COVER = 0.72  # share of the crop that the photo must fill


@dataclass(frozen=True)
class SplitInputs:
    """All that samples of one split are made from."""

    rig: Rig | None  # None: no head model, and nothing is rendered
    identities: Identities
    segments: list[ClipSegment]
    pairs: list[PairSegment]


def open_rig(config: DataConfig) -> Rig:
    """The head model with what derives from it."""
    model, table = load_head_model(Path(config.head_model)), load_table()
    if table.num_vertices != model.num_vertices:
        raise UserError(
            f"{config.head_model} has {model.num_vertices} vertices, the landmark table is for {table.num_vertices}: "
            "use ICT-FaceKit Light, or make another table with `python -m svdp.heads.calibrate`"
        )
    return Rig(model, table, anatomy(model, table), config.size, config.crop_scale)


def load_inputs(config: DataConfig, split: str) -> SplitInputs:
    """Read, fit and track the split's media, or take it from config.cache. Bad photos are logged and left out."""
    rig = open_rig(config) if config.head_model else None
    Path(config.cache).mkdir(parents=True, exist_ok=True)
    photos = list_media(config, split, "portraits") if rig is not None else []
    fitted = [(media, load_portrait(rig, media, config)) for media in photos if rig is not None]
    good = [(media, portrait) for media, portrait in fitted if portrait is not None]
    segments = [segment for media in list_media(config, split, "clips") for segment in load_segments(media, config)]
    pairs = [segment for media in list_media(config, split, "pairs") for segment in load_pair(media, config)]
    identities = Identities([p for _, p in good], [m for m, _ in good], [segment.track for segment in segments])
    return SplitInputs(rig, identities, segments, pairs)


def load_portrait(rig: Rig, media: MediaFile, config: DataConfig) -> Portrait | None:
    """The portrait from the cache or fitted now; None when the photo does not serve."""
    heads = (_digest(Path(config.head_model)), _digest(TABLE))  # another model or table means another fit
    path = (
        Path(config.cache)
        / f"portrait-{media.name}-{_fingerprint(media.path, config.size, config.crop_scale, *heads)}.npz"
    )
    arrays = _cached(path, lambda: _fit_portrait(rig, media))
    if not arrays["usable"]:
        return None
    camera = Camera(arrays["rotation"], float(arrays["scale"]), arrays["offset"])
    fit = HeadFit(arrays["identity"], arrays["expression"], camera, float(arrays["error"]))
    canvas = arrays["canvas"].astype(np.float32)
    return restore_portrait(rig, media.name, canvas, arrays["landmarks"], fit, arrays.get("frame"))


def _fit_portrait(rig: Rig, media: MediaFile) -> dict[str, np.ndarray]:
    photo, track = _first_face(media)
    portrait = make_portrait(rig, media.name, photo, track)
    fit, cover = portrait.fit, _cover(portrait, photo.shape[:2], track)
    usable = fit.error < WORST_FIT and cover > LEAST_COVER and abs(fit.camera.yaw) < MOST_TURNED
    if not usable:
        log.warning(
            "%s left out: fit error %.3f, turned by %.0f degrees, the photo fills %.2f of the crop",
            media.name, fit.error, fit.camera.yaw, cover,
        )  # fmt: skip
    return {
        "canvas": portrait.canvas.round().astype(np.uint8), "landmarks": portrait.landmarks,
        "identity": fit.identity, "expression": fit.expression, "rotation": fit.camera.rotation,
        "scale": np.array(fit.camera.scale), "offset": fit.camera.offset, "error": np.array(fit.error),
        "usable": np.array(usable), "frame": np.array(portrait.frame),
    }  # fmt: skip


def _first_face(media: MediaFile) -> tuple[np.ndarray, FaceTrack]:
    """The first frame in which a face is found, and the face."""
    frames, _ = read_frames(media.path)
    for frame in frames:
        try:
            return frame, detect_face(frame)
        except NoFaceError:
            continue
    raise NoFaceError(f"no face in {media.path}: take it out of the configuration")


def _cover(portrait: Portrait, size_hw: tuple[int, int], track: FaceTrack) -> float:
    """Which share of the crop lies inside the photo."""
    zoom = np.linalg.norm(portrait.landmarks[33] - portrait.landmarks[263])
    zoom /= np.linalg.norm(track.landmarks[0, 33] - track.landmarks[0, 263])
    corner = portrait.landmarks[1, :2] - zoom * track.landmarks[0, 1, :2]  # the photo's corner on the canvas
    edge = MARGIN / (1 + 2 * MARGIN) * len(portrait.canvas)
    low = np.maximum(corner, edge)
    high = np.minimum(corner + zoom * np.array(size_hw[::-1]), len(portrait.canvas) - edge)
    return float(np.prod(np.clip(high - low, 0, None)) / (len(portrait.canvas) - 2 * edge) ** 2)


def load_segments(media: MediaFile, config: DataConfig) -> list[ClipSegment]:
    """The clip's segments from the cache or tracked now."""
    path = (
        Path(config.cache)
        / f"clip-{media.name}-{_fingerprint(media.path, config.size, config.crop_scale, config.frames)}.npz"
    )
    arrays = _cached(path, lambda: _pack_segments(read_segments(media, config)))
    return [_unpack_segment(media, arrays, str(n)) for n in range(int(arrays["count"]))]


def _pack_segments(segments: list[ClipSegment]) -> dict[str, np.ndarray]:
    packed = {"count": np.array(len(segments))}
    for n, segment in enumerate(segments):
        packed |= _pack_segment(segment, str(n))
    return packed


def load_pair(media: MediaFile, config: DataConfig) -> list[PairSegment]:
    """The segments of a pair made elsewhere, from the cache or tracked now."""
    digests = [_digest(path) for path in parts_of(media.path).values()]
    path = Path(config.cache) / (
        f"pair-{media.name}-{_short(*digests, 'laid over', config.size, config.crop_scale, config.frames)}.npz"
    )
    arrays = _cached(path, lambda: _pack_pairs(read_pair(media, config)))
    return [
        PairSegment(
            arrays[f"source{n}"],
            _unpack_segment(media, arrays, f"{n}target"),
            _unpack_segment(media, arrays, f"{n}driver"),
        )
        for n in range(int(arrays["count"]))
    ]


def _pack_pairs(segments: list[PairSegment]) -> dict[str, np.ndarray]:
    packed = {"count": np.array(len(segments))}
    for n, segment in enumerate(segments):
        packed |= {f"source{n}": segment.source}
        packed |= _pack_segment(segment.target, f"{n}target") | _pack_segment(segment.driver, f"{n}driver")
    return packed


def _pack_segment(segment: ClipSegment, key: str) -> dict[str, np.ndarray]:
    track = segment.track
    return {
        f"frames{key}": segment.frames, f"landmarks{key}": track.landmarks,
        f"blendshapes{key}": track.blendshapes, f"matrices{key}": track.matrices,
    }  # fmt: skip


def _unpack_segment(media: MediaFile, arrays: dict[str, np.ndarray], key: str) -> ClipSegment:
    frames = arrays[f"frames{key}"]
    side, present = frames.shape[1], np.ones(len(frames), bool)
    landmarks, blendshapes, matrices = (arrays[f"{name}{key}"] for name in ("landmarks", "blendshapes", "matrices"))
    return ClipSegment(media, frames, FaceTrack(landmarks, blendshapes, matrices, present, (side, side)))


def _cached(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays in `path`, made first when it is not there."""
    if not path.is_file():
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as handle:
            named: dict[str, Any] = make()
            np.savez(handle, **named)
        os.replace(part, path)
    with np.load(path) as data:
        return {name: data[name] for name in data.files}


def _fingerprint(path: Path, *settings: float | str) -> str:
    """Short hash of a file and of the settings that decide what is made of it."""
    return hashlib.sha256(repr((_digest(path), settings)).encode()).hexdigest()[:12]


def _short(*values: float | str) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


@lru_cache(maxsize=512)
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
