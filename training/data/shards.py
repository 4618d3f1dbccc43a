"""Clips of latents as WebDataset tar shards: `{key}.npz` (arrays) and `{key}.json` (where a clip comes from).

Arrays of a clip: sources (S, 16, h, w) and target, driving (T, 16, h, w), float16 latents as the model sees them;
regions (T, 3, h, w) uint8 0/255: eyes, nose, mouth of the driver at latent size. The same clips give the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from .locations import Location, open_file

_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, OSError, ValueError,
    TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError, SyntaxError,
)  # fmt: skip  # what reading a shard raises after a byte of it has changed
ARRAYS = {"sources": np.float16, "target": np.float16, "driving": np.float16, "regions": np.uint8}


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, np.ndarray], dict[str, Any]]]) -> None:
    """Write (key, arrays, description) samples; the file appears under its name only when it is complete."""
    part = path.with_suffix(".part")
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as archive:
        for key, arrays, description in samples:
            packed = io.BytesIO()
            named: dict[str, Any] = {name: arrays[name].astype(kind) for name, kind in ARRAYS.items()}
            np.savez(packed, **named)
            _add(archive, f"{key}.npz", packed.getvalue())
            _add(archive, f"{key}.json", json.dumps(description, sort_keys=True).encode())
    os.replace(part, path)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def read_shard(path: Location) -> Iterator[tuple[str, dict[str, np.ndarray], dict[str, Any]]]:
    """The samples of a shard. Raises UserError when it is not one."""
    try:
        with open_file(path) as file, tarfile.open(fileobj=file) as archive:
            members = {entry.name: entry for entry in archive.getmembers()}
            for key in sorted(name[:-4] for name in members if name.endswith(".npz")):
                with np.load(io.BytesIO(_bytes(archive, members[f"{key}.npz"]))) as packed:
                    arrays = {name: _checked(name, packed[name]) for name in ARRAYS}
                yield key, arrays, json.loads(_bytes(archive, members[f"{key}.json"]))
    except _DAMAGE as error:
        raise UserError(f"{path} is not a readable shard ({error}): delete it and build it again") from error


def _bytes(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    handle = archive.extractfile(entry)
    if handle is None:
        raise KeyError(entry.name)
    return handle.read()


def _checked(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype != ARRAYS[name] or values.ndim != 4 or not values.size:
        raise ValueError(f"{name} is {values.dtype} {values.shape}")
    return values


def load_shards(paths: Sequence[Location]) -> dict[str, np.ndarray]:
    """All clips, stacked: sources (n, S, 16, h, w), target and driving (n, T, 16, h, w), regions (n, T, 3, h, w).

    Clips come in the order of the shards' names, then of their keys. Raises UserError: none given, unreadable, or
    clips of different shapes.
    """
    if not paths:
        raise UserError("no shards given: build them with `svdp data build`, or set the data folder")
    clips = [arrays for path in _in_order(paths) for _, arrays, _ in read_shard(path)]
    if not clips:
        raise UserError(f"the shards {', '.join(str(p) for p in paths)} hold no clips: build them again")
    for name in ARRAYS:
        shapes = {clip[name].shape for clip in clips}
        if len(shapes) > 1:
            raise UserError(f"clips differ in the shape of {name}: {sorted(shapes)}; do not mix shards of two builds")
    stacked = {}
    for name in ARRAYS:
        stacked[name] = np.stack([clip.pop(name) for clip in clips])
    return stacked


def describe_shards(paths: Sequence[Location]) -> list[dict[str, Any]]:
    """The descriptions of all clips, in the order of `load_shards`, each with its key."""
    return [{"key": key, **about} for path in _in_order(paths) for key, _, about in read_shard(path)]


def _in_order(paths: Sequence[Location]) -> list[Location]:
    return sorted(paths, key=lambda path: Path(str(path)))
