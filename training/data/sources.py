"""Which pictures and clips training data is made of, under which licence, and what is kept out for validation."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ...errors import MediaError, UserError
from ...model.checks import build, convert
from ...signals.images import load_image
from ...signals.video import VideoReader
from ..tables import read_toml, table_at, tables_at
from .augmentation import DriverChanges

SPLITS = ("train", "heldout")
VIDEO_SUFFIXES = (".mp4", ".mpg", ".mov", ".webm", ".mkv", ".avi")
MOVING_SUFFIXES = (".webp", ".gif", ".png")
SHARES = (
    "pair_share", "clip_share", "cross_share", "plain_share", "swap_share", "reshape_share", "paint_share",
    "replay_share",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MediaSource:
    """Files of one origin and licence."""

    root: str  # name of a folder in DataConfig.roots
    origin: str
    licence: str
    portraits: tuple[str, ...] = ()  # files, or patterns with *, that lend a photo; of a moving picture one frame
    clips: tuple[str, ...] = ()  # files that lend frames (self-driven samples) and motion
    pairs: tuple[str, ...] = ()  # folders of cross-identity pairs made elsewhere, see `training.data.pairs`
    heldout: tuple[str, ...] = ()  # patterns of file names kept for validation


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Everything that decides what `training.data.build.build` writes, besides the seed."""

    autoencoder: str  # safetensors: the encoder alone or a whole tiny autoencoder; or SD3's own
    media: tuple[MediaSource, ...]
    roots: Mapping[str, str]
    head_model: str = ""  # npz of `heads.bake`; empty: no rendered pairs
    cache: str = ""  # folder for fitted heads and tracks; empty: `cache` beside the shards
    size: int = 128
    crop_scale: float = 1.9  # side of the crop / size of the face; the adapter must be told the same
    frames: int = 19
    sources: int = 3
    clips_per_shard: int = 40
    pair_share: float = 0.5  # samples from pairs made elsewhere, if there are any
    clip_share: float = 0.25  # of the rest: self-driven samples from real or generated clips; the others are rendered
    cross_share: float = 1.0  # rendered pairs: driven by another person; the others by themselves
    large_pose: float = 42.0  # rendered pairs: most degrees that plain heads turn to a side
    plain_share: float = 0.2  # rendered pairs: plain heads on plain backgrounds, for large poses
    swap_share: float = 0.3  # rendered pairs: the face of one photo in the surroundings of another
    reshape_share: float = 0.4  # rendered pairs: target with a changed head shape
    paint_share: float = 0.0  # rendered pairs: target with soft random colours all over
    replay_share: float = 0.5  # rendered pairs: motion of a tracked clip instead of invented motion
    driver: DriverChanges = field(default_factory=DriverChanges)  # the table [driver]

    def __post_init__(self):
        if self.size % 8:
            raise UserError(f"size must be a multiple of 8, got {self.size}")
        if self.crop_scale <= 0:
            raise UserError(f"crop_scale must be above 0, got {self.crop_scale}")
        if self.frames < 1 or self.sources < 1 or self.clips_per_shard < 1:
            raise UserError("frames, sources and clips_per_shard must be at least 1")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        unknown = {m.root for m in self.media} - set(self.roots)
        if unknown:
            raise UserError(f"[[media]] names unknown roots {sorted(unknown)}; add them under [roots]")


@dataclass(frozen=True)
class MediaFile:
    """One file and its terms; `name` identifies the person in manifests."""

    name: str
    path: Path
    origin: str
    licence: str


def load_data_config(path: Path, overrides: Mapping[str, Any] | None = None) -> DataConfig:
    """Read a TOML file like configs/mini-data.toml (it may extend another); relative paths count from its folder.

    `overrides` replace settings of [data]; its key "roots" is merged into [roots]. Raises UserError.
    """
    if not path.is_file():
        raise UserError(f"no configuration at {path}; see configs/mini-data.toml for one")
    document = read_toml(path)
    unknown = sorted(set(document) - {"data", "roots", "driver", "media"})
    if unknown:
        raise UserError(f"{path}: unknown tables {unknown}; known are [data], [roots], [driver] and [[media]]")
    driver = build(DriverChanges, table_at(document, "driver", str(path)), f"{path}: [driver]")
    overrides = dict(overrides or {})
    roots = table_at(document, "roots", str(path)) | dict(overrides.pop("roots", {}))
    settings = table_at(document, "data", str(path)) | overrides
    known = {f.name for f in fields(DataConfig)} - {"media", "roots", "driver"}
    if set(settings) - known:
        unknown = sorted(set(settings) - known)
        raise UserError(f"{path}: unknown settings {unknown} in [data]; known are {sorted(known)}")
    settings = {**convert(DataConfig, table_at(document, "data", str(path)), f"{path}: [data]"), **overrides}
    if not all(isinstance(folder, str | Path) for folder in roots.values()):
        raise UserError(f"{path}: [roots] must name folders, got {roots}")
    media = tuple(_read_source(path, table) for table in tables_at(document, "media", str(path)))
    needed = ("head_model", "autoencoder") if any(m.portraits for m in media) else ("autoencoder",)
    for name in needed:
        if name not in settings:
            raise UserError(f"{path}: [data] needs {name}")
    files = {name: str(path.parent / settings[name]) for name in ("head_model", "autoencoder") if settings.get(name)}
    resolved = {name: str(path.parent / folder) for name, folder in roots.items()}
    return DataConfig(media=media, roots=resolved, driver=driver, **{**settings, **files})


def _read_source(path: Path, table: dict[str, Any]) -> MediaSource:
    known = {f.name for f in fields(MediaSource)}
    if set(table) - known or not {"root", "origin", "licence"} <= set(table):
        raise UserError(
            f"{path}: a [[media]] needs root, origin and licence; known are {sorted(known)}, got {sorted(table)}"
        )
    return build(MediaSource, table, f"{path}: [[media]]")


def list_media(config: DataConfig, split: str, kind: str) -> list[MediaFile]:
    """The split's files of one kind ("portraits" or "clips"), or its folders of "pairs", sorted by name.

    Raises UserError if one is missing.
    """
    if split not in SPLITS:
        raise UserError(f"split must be one of {SPLITS}, got {split!r}")
    found = []
    for source in config.media:
        for path in _files_of(config, source, kind):
            kept_out = any(fnmatch.fnmatch(path.stem, pattern) for pattern in source.heldout)
            if kept_out == (split == "heldout"):
                found.append(MediaFile(path.stem, path, source.origin, source.licence))
    return sorted(found, key=lambda media: media.name)


def _files_of(config: DataConfig, source: MediaSource, kind: str) -> list[Path]:
    folder = Path(config.roots[source.root])
    named: list[Path] = []
    for file in getattr(source, kind):
        found = sorted(folder.glob(file)) if "*" in file else []
        named += found or [folder / file]
    missing = [path for path in named if not (path.is_dir() if kind == "pairs" else path.is_file())]
    if missing:
        raise UserError(f"training media {missing[0]} does not exist: set the root {source.root!r}")
    if kind != "pairs":
        return named
    return [pair for folder in named for pair in folder.iterdir() if pair.is_dir()]


def read_frames(path: Path) -> tuple[list[np.ndarray], float]:
    """All frames (H, W, 3) uint8 of a video, a moving picture or a still (one frame), and the frame rate."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        reader = VideoReader(path)
        frames = list(reader)
        return frames, float(reader.timing.fps)
    if path.suffix.lower() in MOVING_SUFFIXES:
        try:
            with Image.open(path) as image:
                if getattr(image, "n_frames", 1) > 1:
                    shown = [
                        (np.array(f.convert("RGB")), f.info.get("duration", 0)) for f in ImageSequence.Iterator(image)
                    ]
                    milliseconds = float(np.mean([duration for _, duration in shown])) or 80.0
                    return [frame for frame, _ in shown], 1000 / milliseconds
        except OSError as error:
            raise MediaError(f"{path} cannot be read ({error}): save it anew") from error
    return [load_image(path)], 1.0


def with_cache(config: DataConfig, folder: Path) -> DataConfig:
    """The configuration with a cache folder: its own or one beside the shards."""
    return replace(config, cache=config.cache or str(folder / "cache"))
