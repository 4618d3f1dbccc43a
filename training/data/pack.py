"""A pack: everything that the posed model is trained from, in two small files that travel to a bare machine.

Faces are WebP pictures with landmarks, clips are H.264 with their tracks. Heads are fitted where the training runs.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...errors import NoFaceError, UserError
from ...heads.bake import bake
from ...heads.model import load_head_model
from ...heads.scene import MARGIN
from ...signals.crops import CropConfig, crop_landmarks, plan_crop, resample
from ...signals.track import FaceTrack, detect_face, track_faces
from .clips import uncut_runs
from .posed import MARK_STEPS
from .sources import SPLITS, DataConfig, MediaFile, list_media, read_frames

log = logging.getLogger(__name__)

FACES, CLIPS = "portraits.npz", "clips.npz"
QUALITY = 84  # of WebP
RATE = "21"  # constant rate factor of H.264
SHORTEST, LONGEST = 20, 48  # frames of a clip; of a longer one the liveliest stretch is kept
SMALLEST = 32.0  # pixels between the outer eye corners
MOST_TURNED = 45.0  # degrees


def write_pack(config: DataConfig, out: Path) -> dict[str, int]:
    """Write the pack of a data configuration into `out`; returns how many faces and clips there are.

    Files in which no face is found are logged and left out. Raises UserError if nothing is left.
    """
    out.mkdir(parents=True, exist_ok=True)
    side = int(config.size * (1 + 2 * MARGIN))
    faces, clips = [], []
    for split in SPLITS:
        faces += [
            f for media in list_media(config, split, "portraits") if (f := _pack_face(media, split, config, side))
        ]
        clips += [c for media in list_media(config, split, "clips") if (c := _pack_clip(media, split, config, side))]
    if not faces:
        raise UserError("the configuration's portraits show no face: name others under [[media]]")
    _write(out / FACES, faces)
    _write(out / CLIPS, clips)
    return {"faces": len(faces), "clips": len(clips)}


def write_head(source: Path, out: Path, modes: int) -> None:
    """Write a head model with its first identity modes only.

    `source` is the folder FaceXModel of ICT-FaceKit or an npz that `heads.bake` wrote. Raises UserError if it is not.
    """
    if source.is_dir():
        bake(source, out)
        source = out
    load_head_model(source)  # says what is wrong
    with np.load(source) as data:
        arrays = {name: data[name] for name in data.files}
    for name in {"I", "cage_I"} & set(arrays):
        arrays[name] = arrays[name][:modes]
    np.savez_compressed(out, **arrays)


def _affines(track: FaceTrack, config: DataConfig, position: Any) -> np.ndarray:
    """(T, 2, 3) picture -> canvas: the crop rule's square with a margin."""
    crop = plan_crop(track, CropConfig(size=config.size, scale=config.crop_scale, position=position))
    affines = crop.affines.copy()
    affines[:, :, 2] += MARGIN * config.size
    return affines


def _entry(media: MediaFile, split: str, blob: bytes, marks: np.ndarray, track: FaceTrack) -> dict[str, Any]:
    return {
        "names": media.name, "splits": split, "licences": media.licence, "blob": blob, "track": track,
        "landmarks": np.round(marks * MARK_STEPS).clip(-32768, 32767).astype(np.int16),
    }  # fmt: skip


def _pack_face(media: MediaFile, split: str, config: DataConfig, side: int) -> dict[str, Any] | None:
    frames, _ = read_frames(media.path)
    for photo in frames[:12]:
        try:
            track = detect_face(photo)
        except NoFaceError:
            continue
        affines = _affines(track, config, "locked")
        canvas = np.ascontiguousarray(resample(photo, affines[0], (side, side))[..., ::-1])
        _, coded = cv2.imencode(".webp", canvas, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
        return _entry(media, split, coded.tobytes(), crop_landmarks(track.landmarks, affines), track)
    log.warning("%s left out: no face is found", media.path)
    return None


def _pack_clip(media: MediaFile, split: str, config: DataConfig, side: int) -> dict[str, Any] | None:
    frames, fps = read_frames(media.path)
    try:
        track = track_faces(frames, fps, smoothing=None)
    except NoFaceError:
        log.warning("%s left out: no face is found", media.path)
        return None
    start, stop = max(uncut_runs(track), key=lambda run: run[1] - run[0])
    track = track[start:stop]
    if stop - start < SHORTEST or np.median(track.eye_distance) < SMALLEST or _turn(track) > MOST_TURNED:
        log.warning("%s left out: too short, too small or turned too far", media.path)
        return None
    first = _liveliest(track)
    track = track[first : first + LONGEST]
    affines = _affines(track, config, "auto")
    kept = frames[start + first : start + first + LONGEST]
    pictures = [resample(f, affine, (side, side)) for f, affine in zip(kept, affines, strict=True)]
    return _entry(media, split, _encode(pictures), crop_landmarks(track.landmarks, affines), track)


def _turn(track: FaceTrack) -> float:
    return float(np.abs(track.euler[:, 0]).max())


def _liveliest(track: FaceTrack) -> int:
    """Where the LONGEST frames begin in which face and head move most."""
    if track.num_frames <= LONGEST:
        return 0
    moved = np.linalg.norm(np.diff(track.blendshapes, axis=0), axis=1)
    moved = moved + 0.05 * np.linalg.norm(np.diff(track.euler, axis=0), axis=1)
    return int(np.convolve(moved, np.ones(LONGEST - 1), "valid").argmax())


def _encode(pictures: Sequence[np.ndarray]) -> bytes:
    """An mp4 file's bytes."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": RATE, "preset": "slow"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _write(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    sizes = [len(entry["blob"]) for entry in entries]
    arrays: dict[str, Any] = {
        name: np.array([entry[name] for entry in entries], dtype=np.str_) for name in ("names", "splits", "licences")
    }
    stack = lambda name: [getattr(entry["track"], name) for entry in entries]  # noqa: E731
    none = np.zeros((0, 478, 3), np.int16)
    arrays |= {
        "lengths": np.array([len(entry["landmarks"]) for entry in entries], np.int64),
        "landmarks": np.concatenate([none, *(entry["landmarks"] for entry in entries)]),
        "blendshapes": np.concatenate([np.zeros((0, 52)), *stack("blendshapes")]).astype(np.float16),
        "matrices": np.concatenate([np.zeros((0, 4, 4)), *stack("matrices")]).astype(np.float32),
        "offsets": np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64),
        "data": np.frombuffer(b"".join(entry["blob"] for entry in entries), np.uint8),
    }
    np.savez_compressed(path, **arrays)
