"""What a case is made of: a kind, damage to bytes, values that no setting should have."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Made = Path | list[str]  # a file, a folder, or the words of a command line
RESULT = "result"  # what a case may write begins so


@dataclass(frozen=True)
class Generator:
    """A kind of case: `make` puts something damaged into a folder, `read` gives it to the code under test.

    `read` runs in that folder. It may write files whose names begin with `RESULT`, and change none that is there.
    """

    name: str
    make: Callable[[np.random.Generator, Path], Made]
    read: Callable[[Any], object]


def written(path: Path, data: bytes) -> Path:
    """The path, after the data was written there."""
    path.write_bytes(data)
    return path


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """A copy with one kind of damage: none, cut, bytes changed, a stretch zeroed, moved, or doubled."""
    changed, kind = bytearray(data), int(rng.integers(6))
    begin, end = sorted(int(i) for i in rng.integers(0, len(data) + 1, 2))
    if kind == 1:
        del changed[begin:]
    elif kind == 2:
        for place in rng.integers(0, len(data), int(rng.integers(1, 30))):
            changed[place] = int(rng.integers(256))
    elif kind == 3:
        changed[begin:end] = bytes(end - begin)
    elif kind == 4:
        changed = changed[begin:] + changed[:begin]
    elif kind == 5:
        changed[begin:begin] = changed[begin:end]
    return bytes(changed)


def odd(rng: np.random.Generator) -> Any:
    """A value of any type: far out of range, not finite, empty, or of another kind than anyone expects."""
    values = [
        0, -1, 1, 3, 7, 10**6, 2**31, 2**63, -(2**63), 10**30, True, False, 0.5, -0.0, 1e-300, 1e300, math.nan,
        math.inf, -math.inf, "", "a", "0", "nan", "../x", "/", "a\0b", "\xe9\U0001f600", "x" * 5000, "*", "[", [], [1],
        [[]], [-1, 10**9], ["a"], [math.nan] * 3, {}, {"a": 1}, {"": {}},
    ]  # fmt: skip
    return copy.deepcopy(values[int(rng.integers(len(values)))])


def mutated(rng: np.random.Generator, table: Any) -> Any:
    """A copy of a table of TOML or JSON in which one to three entries are replaced, removed, renamed or scaled."""
    changed = copy.deepcopy(table)
    for _ in range(int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))):
        places = list(_places(changed))
        if places:
            _change(rng, *places[int(rng.integers(len(places)))])
    return changed


def _change(rng: np.random.Generator, holder: Any, key: Any) -> None:
    kind, value = int(rng.integers(6)), holder[key]
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif kind == 2 and type(value) in (int, float):
        holder[key] = value * [-1, 0, 1000, 10**9, 0.37][int(rng.integers(5))]
    elif kind == 3:
        holder[key] = [value, value]
    else:
        holder[key] = odd(rng)


def _places(value: Any) -> Any:
    """(holder, key) of everything in a table, at any depth."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)
