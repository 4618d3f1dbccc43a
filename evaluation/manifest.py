"""The list of pairs that `svdp evaluate` runs: a TOML file.

root = "../pictures"            # where paths start, relative to the file; by default its folder
[least.median]                  # optional: what is asked for, by the names of the report's columns
yaw = 0.8
[least.every]
faces = 0.95
[[pair]]
name = "woman-speech"           # also the name of its files; letters, digits, "-", "_" and "."
source = "portraits/woman.png"
driving = "clips/speech.mp4"
start = 0                       # optional: first driving frame
max_frames = 72                 # optional: at most so many; default all
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import UserError
from .report import Bar, Over

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One portrait and one driving clip, or a part of it."""

    name: str
    source: Path
    driving: Path
    start: int = 0
    max_frames: int | None = None


@dataclass(frozen=True, kw_only=True)
class PairManifest:
    """What to run, and what is asked of it."""

    pairs: Sequence[Pair]
    bars: Sequence[Bar]


def read_pairs(path: Path, keys: Sequence[str]) -> PairManifest:
    """The pairs of a TOML file; `keys` are the numbers that bars may be set for.

    Raises UserError naming what is wrong: no such file, not TOML, unknown or missing entries, a name twice or unfit for
    a file, a picture or clip that does not exist.
    """
    table = _load(path)
    _check_keys(f"{path}", table, {"root", "least", "pair"})
    root = path.parent / str(table.get("root", "."))
    entries = table.get("pair")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} lists no pairs: add [[pair]] tables with name, source and driving")
    pairs = [_pair(f"{path}, pair {number}", entry, root) for number, entry in enumerate(entries, 1)]
    twice = [name for name, count in Counter(pair.name for pair in pairs).items() if count > 1]
    if twice:
        raise UserError(f"{path} has several pairs named {', '.join(twice)}: results would overwrite each other")
    return PairManifest(pairs=pairs, bars=_bars(path, table.get("least", {}), keys))


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
    texts = {key: entry.get(key) for key in ("name", "source", "driving")}
    for key, value in texts.items():
        if not isinstance(value, str) or not value:
            raise UserError(f'{where} needs {key} = "..."')
    if not _NAME.fullmatch(str(texts["name"])):
        raise UserError(f"{where}: name {texts['name']!r} must be fit for files: letters, digits, '-', '_' and '.'")
    start, max_frames = entry.get("start", 0), entry.get("max_frames")
    if type(start) is not int or start < 0:
        raise UserError(f"{where}: start must be a whole number from 0, got {start!r}")
    if max_frames is not None and (type(max_frames) is not int or max_frames < 1):
        raise UserError(f"{where}: max_frames must be a whole number from 1, got {max_frames!r}")
    source, driving = root / str(texts["source"]), root / str(texts["driving"])
    for file in (source, driving):
        if not file.is_file():
            raise UserError(f"{where}: {file} does not exist: check the path and root")
    return Pair(name=str(texts["name"]), source=source, driving=driving, start=start, max_frames=max_frames)


def _bars(path: Path, table: Any, keys: Sequence[str]) -> list[Bar]:
    kinds: tuple[Over, ...] = ("median", "every")
    _check_keys(f"{path}, [least]", table, set(kinds))
    bars: list[Bar] = []
    for over in kinds:
        wanted = table.get(over, {})
        _check_keys(f"{path}, [least.{over}]", wanted, set(keys))
        wrong = [key for key, least in wanted.items() if type(least) not in (int, float)]
        if wrong:
            raise UserError(f"{path}, [least.{over}]: {', '.join(wrong)} must be a number")
        bars += [Bar(key=key, least=float(least), over=over) for key, least in wanted.items()]
    return bars


def _check_keys(where: str, table: Any, known: set[str]) -> None:
    if not isinstance(table, dict):
        raise UserError(f"{where} must be a table")
    unknown = sorted(set(table) - known)
    if unknown:
        raise UserError(f"{where} has unknown entries {', '.join(unknown)}: known are {', '.join(sorted(known))}")
