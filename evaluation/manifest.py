"""The list of pairs that `svdp evaluate` runs: a TOML file.

root = "../pictures"            # where paths start, relative to the file; by default its folder
[least.median]                  # optional: what is asked for, by the names of the report's columns
yaw = 0.8
[least.every]
faces = 0.95
[most.median]                   # likewise, of numbers that should be small
seam = 1.3
[[pair]]                        # cross-reenactment
name = "woman-speech"           # also the name of its files; letters, digits, "-", "_" and "."
source = "portraits/woman.png"
driving = "clips/speech.mp4"
start = 0                       # optional: first driving frame
max_frames = 72                 # optional: at most so many; default all
[[pair]]                        # self-reenactment: the driver is the truth
name = "man-self"
source = "clips/man.mp4"        # a video: one of its frames is the portrait
source_frame = 0                # optional: which one; by default the one whose crop is nearest to the whole clip's
driving = "clips/man.mp4"
target = "clips/man.mp4"        # what the result should look like, frame by frame
target_start = 0                # optional: its first frame; by default `start` if it is the driver, else 0
compare = { head = "head.mp4" } # optional: videos made otherwise, measured as baselines, by their names in the table
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..model.checks import shortened
from .report import Bar, Over

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v", ".gif")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One portrait and one driving clip, or a part of it."""

    name: str
    source: Path
    driving: Path
    start: int = 0
    max_frames: int | None = None
    source_frame: int | None = None  # of a video as source; None: the one whose crop is nearest to the clip's
    target: Path | None = None
    target_start: int = 0
    compare: Mapping[str, Path] = field(default_factory=dict)

    @property
    def source_is_video(self) -> bool:
        """Whether the portrait is a frame of a video."""
        return self.source.suffix.lower() in VIDEO_SUFFIXES

    @property
    def is_self(self) -> bool:
        """Self-reenactment: the driver itself is the truth."""
        return self.target == self.driving


@dataclass(frozen=True, kw_only=True)
class PairManifest:
    """What to run, and what is asked of it."""

    pairs: Sequence[Pair]
    bars: Sequence[Bar]


def read_pairs(path: Path, keys: Sequence[str], media: Path | None = None) -> PairManifest:
    """The pairs of a TOML file; `keys` are the numbers that bars may be set for, `media` replaces its root.

    Raises UserError naming what is wrong: no such file, not TOML, unknown or missing entries, a name twice or unfit for
    a file, a picture or clip that does not exist.
    """
    table = _load(path)
    _check_keys(f"{path}", table, {"root", "least", "most", "pair"})
    root = media or path.parent / str(table.get("root", "."))
    entries = table.get("pair")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} lists no pairs: add [[pair]] tables with name, source and driving")
    pairs = [_pair(f"{path}, pair {number}", entry, root) for number, entry in enumerate(entries, 1)]
    twice = [name for name, count in Counter(pair.name for pair in pairs).items() if count > 1]
    if twice:
        raise UserError(f"{path} has several pairs named {', '.join(twice)}: results would overwrite each other")
    return PairManifest(pairs=pairs, bars=_bars(path, table, keys))


def read_bars(path: Path, keys: Sequence[str]) -> list[Bar]:
    """The bars of a TOML file without pairs. Raises UserError as `read_pairs`."""
    table = _load(path)
    _check_keys(f"{path}, beside --shards,", table, {"least", "most"})
    return _bars(path, table, keys)


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"list of pairs {path} does not exist: check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as TOML ({error}): see `svdp evaluate --help`") from error


def _pair(where: str, entry: Any, root: Path) -> Pair:
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not a table: write [[pair]] above name, source and driving")
    _check_keys(where, entry, {f.name for f in fields(Pair)})
    name = _text(where, entry, "name")
    if not _NAME.fullmatch(name):
        raise UserError(f"{where}: name {name!r} must be fit for files: letters, digits, '-', '_' and '.'")
    source, driving = _file(where, entry, "source", root), _file(where, entry, "driving", root)
    target = _file(where, entry, "target", root) if "target" in entry else None
    if target is None and "target_start" in entry:
        raise UserError(f"{where}: target_start says nothing without target")
    start = _whole(where, entry, "start", 0) or 0
    target_start = _whole(where, entry, "target_start", 0)
    if target_start is None:
        target_start = start if target == driving else 0
    pair = Pair(
        name=name,
        source=source,
        driving=driving,
        start=start,
        max_frames=_whole(where, entry, "max_frames", 1),
        source_frame=_whole(where, entry, "source_frame", 0),
        target=target,
        target_start=target_start,
        compare=_compare(where, entry, root),
    )
    if pair.source_frame is not None and not pair.source_is_video:
        raise UserError(f"{where}: source_frame says nothing, since {source.name} is no video")
    return pair


def _compare(where: str, entry: dict[str, Any], root: Path) -> dict[str, Path]:
    table = entry.get("compare", {})
    if not isinstance(table, dict):
        raise UserError(f'{where}: compare must be a table of names and videos, like {{ head = "head.mp4" }}')
    return {name: _file(f"{where}, compare", table, name, root) for name in table}


def _text(where: str, entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(f'{where} needs {key} = "..."')
    return value


def _file(where: str, entry: dict[str, Any], key: str, root: Path) -> Path:
    path = root / _text(where, entry, key)
    try:
        there = path.is_file()
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {key} {shortened(entry[key])} can be no file's name") from error
    if not there:
        raise UserError(f"{where}: {path} does not exist: check the path, and root or --media")
    return path


def _whole(where: str, entry: dict[str, Any], key: str, least: int) -> int | None:
    value = entry.get(key)
    if value is not None and (type(value) is not int or value < least):
        raise UserError(f"{where}: {key} must be a whole number from {least}, got {value!r}")
    return value


def _bars(path: Path, table: dict[str, Any], keys: Sequence[str]) -> list[Bar]:
    kinds: tuple[Over, ...] = ("median", "every")
    bars: list[Bar] = []
    for side in ("least", "most"):
        part = table.get(side, {})
        _check_keys(f"{path}, [{side}]", part, set(kinds))
        for over in kinds:
            wanted = part.get(over, {})
            _check_keys(f"{path}, [{side}.{over}]", wanted, set(keys))
            wrong = [key for key, limit in wanted.items() if type(limit) not in (int, float)]
            if wrong:
                raise UserError(f"{path}, [{side}.{over}]: {', '.join(wrong)} must be a number")
            bars += [Bar(key=key, over=over, **{side: float(limit)}) for key, limit in wanted.items()]
    return bars


def _check_keys(where: str, table: Any, known: set[str]) -> None:
    if not isinstance(table, dict):
        raise UserError(f"{where} must be a table")
    unknown = sorted(set(table) - known)
    if unknown:
        raise UserError(f"{where} has unknown entries {', '.join(unknown)}: known are {', '.join(sorted(known))}")
