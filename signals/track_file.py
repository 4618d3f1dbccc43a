"""Face tracks as files, so that a long clip is tracked once."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from ..errors import UserError
from .detector import NUM_LANDMARKS
from .track import BLENDSHAPES, FaceTrack

SUFFIX = ".track.npz"
_FORMAT = 1
_ARRAYS = {"landmarks": (NUM_LANDMARKS, 3), "blendshapes": (len(BLENDSHAPES),), "matrices": (4, 4), "present": ()}


def save_track(path: Path, track: FaceTrack) -> None:
    """Write a track whole or not at all. Raises UserError where it cannot be written."""
    partial = path.with_name(path.name + ".partial")
    arrays = {name: getattr(track, name) for name in _ARRAYS}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez_compressed(file, format=np.int64(_FORMAT), image_size=np.array(track.image_size), **arrays)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): free some space, or choose another name") from error


def load_track(path: Path) -> FaceTrack:
    """Read a track. Raises UserError if the file is missing, damaged or of another kind."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("format", "image_size", *_ARRAYS)}
    except FileNotFoundError:
        raise UserError(f"the face track {path} is not there: save it again") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a face track that can be read ({error}): save it again") from error
    count = len(arrays["landmarks"])
    fits = all(arrays[name].shape == (count, *shape) for name, shape in _ARRAYS.items())
    if int(arrays["format"]) != _FORMAT or not fits or not count:
        raise UserError(f"{path} is a face track of another version: save it again")
    height, width = (int(side) for side in arrays["image_size"])
    return FaceTrack(**{name: arrays[name] for name in _ARRAYS}, image_size=(height, width))
