"""A face's motion as JSON text, exact to the bit.

{"format": "svdp-motion", "version": 1, "fps": 30.0, "frames": 2,
 "expression": {"jawOpen": [0.0, 0.5]}, "angles": {"yaw": [0.0, 3.5], "pitch": ..., "roll": ...},
 "lids": {"left": ..., "right": ...}, "lips": {"middle": ..., "right": ..., "left": ...},
 "place": {"x": ..., "y": ..., "size": ...}, "strength": {"smile": [1.0, 0.5]}, "offset": {"yaw": [0.0, 10.0]}}

Every list has a number a frame; what they mean is said in `face_motion.FaceMotion`. Expressions that are not named are
0, strengths 1, offsets 0; of the others all must be there. A motion whose strengths are all 0 needs none of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..signals.files import write_whole
from .controls import NAMES
from .face_motion import FaceMotion, still

FORMAT, VERSION = "svdp-motion", 1
ENDING = ".motion.json"
MOST_FRAMES, MOST = 100_000, 1e30  # a number beyond is none that can be meant; nor is NaN
COLUMNS = {"angles": ("yaw", "pitch", "roll"), "lids": ("left", "right"), "lips": ("middle", "right", "left"),
           "place": ("x", "y", "size")}  # fmt: skip


def to_text(motion: FaceMotion) -> str:
    """The motion as JSON text; the driver's regions are not kept, since a file does not know its driver."""
    place = np.concatenate([motion.centre, motion.size[:, None]], 1)
    arrays = {"angles": motion.angles, "lids": motion.lids, "lips": motion.lips, "place": place}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "fps": motion.fps,
        "frames": len(motion),
        "expression": _table(motion.names, motion.expression, 0.0),
        **{name: _table(COLUMNS[name], values, None) for name, values in arrays.items()},
        "strength": _table(NAMES, motion.strength, 1.0),
        "offset": _table(NAMES, motion.offset, 0.0),
    }
    return json.dumps(content, allow_nan=False).replace('}, "', '},\n"').replace('], "', '],\n "') + "\n"


def from_text(text: str, names: tuple[str, ...], told: str = "the motion") -> FaceMotion:
    """The motion that `to_text` wrote. `names`: of the head's expressions; `told` names the text in errors.

    Raises UserError: no JSON, another format or version, a name, a length or a number that cannot be.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no JSONDecodeError
        raise UserError(f"{told} is not JSON ({error}): save it again with Save Motion or --save-motion") from error
    return _Reader(content, told).motion(names)


def save_motion(path: Path, motion: FaceMotion) -> None:
    """Write the file. Raises UserError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_text(motion).encode())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose a folder that you may write to") from error


def load_motion(path: Path, names: tuple[str, ...]) -> FaceMotion:
    """Read the file; errors as in `from_text`, and UserError if it is not there."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the motion {path} ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"motion {path} is not JSON: save it with Save Motion or --save-motion") from error
    return from_text(text, names, f"motion {path}")


def _table(names: tuple[str, ...], values: np.ndarray, usual: float | None) -> dict[str, list[float]]:
    """Columns by name, without those that are `usual` throughout; the shortest decimals that give the same float32."""
    columns = zip(names, values.T, strict=True)
    return {
        name: [float(str(v)) for v in column]
        for name, column in columns
        if usual is None or (column != usual).any() or np.signbit(column).any()
    }


class _Reader:
    """Reads a parsed file and refuses what is wrong with it."""

    def __init__(self, content: Any, told: str) -> None:
        self.told = told
        self.content: dict[str, Any] = content if isinstance(content, dict) else {}
        if self.content.get("format") != FORMAT:
            raise UserError(f'{told} is not a motion: "format" must be "{FORMAT}"')
        if self.content.get("version") != VERSION:
            raise UserError(f"{told} is of version {self.content.get('version')!r}, and {VERSION} is known: update")
        self.frames = self._number("frames")
        if not self.frames.is_integer() or not 1 <= self.frames <= MOST_FRAMES:
            raise UserError(f"{told}: frames must be a whole number from 1 to {MOST_FRAMES}, got {self.frames:g}")

    def motion(self, names: tuple[str, ...]) -> FaceMotion:
        count, fps = int(self.frames), self._number("fps")
        if not 0 < fps <= 1000:
            raise UserError(f"{self.told}: fps must be above 0 and at most 1000, got {fps:g}")
        empty, arrays = still(names, count, fps), {}
        arrays["expression"] = self._table("expression", names, empty.expression)
        arrays["strength"] = self._table("strength", NAMES, np.ones_like(empty.strength))
        arrays["offset"] = self._table("offset", NAMES, empty.offset)
        needed = bool(arrays["strength"].any())
        usual = {"place": np.concatenate([empty.centre, empty.size[:, None]], 1), "angles": empty.angles,
                 "lids": empty.lids, "lips": empty.lips}  # fmt: skip
        for name, columns in COLUMNS.items():
            arrays[name] = self._table(name, columns, usual[name], needed)
        self._check_ranges(arrays)
        place = arrays.pop("place")
        return FaceMotion(names, fps, **arrays, centre=place[:, :2].copy(), size=place[:, 2].copy())

    def _check_ranges(self, arrays: dict[str, np.ndarray]) -> None:
        limits = {"expression": (0, 1), "strength": (0, 100), "offset": (-90, 90), "angles": (-180, 180),
                  "lids": (0, 10), "lips": (0, 10), "place": (-100, 100)}  # fmt: skip
        for name, (low, high) in limits.items():
            values = arrays[name]
            if values.min() < low or values.max() > high:
                raise UserError(f"{self.told}: {name} must be from {low} to {high}")
        if arrays["place"][:, 2].min() <= 0:
            raise UserError(f"{self.told}: the size in place must be above 0")

    def _number(self, name: str) -> float:
        value = self.content.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST:
            raise UserError(f"{self.told}: {name} must be a number, got {value!r:.40}")
        return float(value)

    def _table(self, name: str, known: tuple[str, ...], usual: np.ndarray, needed: bool = False) -> np.ndarray:
        """(T, columns): what is given over what is usual."""
        given, values = self.content.get(name, {}), usual.copy()
        if not isinstance(given, dict):
            raise UserError(f"{self.told}: {name} must be an object of lists")
        unknown, missing = set(given) - set(known), set(known) - set(given)
        if unknown:
            raise UserError(f"{self.told}: {name} has no {min(unknown)!r:.40}; names are as in {', '.join(known[:4])}")
        if needed and missing:
            raise UserError(f"{self.told}: {name} lacks {', '.join(sorted(missing))}")
        for column, row in given.items():
            values[:, known.index(column)] = self._row(f"{name} {column}", row)
        return values

    def _row(self, name: str, row: Any) -> np.ndarray:
        if not isinstance(row, list) or len(row) != self.frames:
            found = f"{len(row)} numbers" if isinstance(row, list) else "no list"
            raise UserError(f"{self.told}: {name} has {found}, and there are {self.frames:g} frames")
        if any(isinstance(v, bool) or not isinstance(v, int | float) or not abs(v) < MOST for v in row):
            raise UserError(f"{self.told}: {name} holds something that is not a finite number")
        return np.array(row, np.float32)
