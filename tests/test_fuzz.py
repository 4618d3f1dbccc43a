"""A short part of `scripts/fuzz.py`: hostile films and pictures are read, or refused in one line."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import av
import pytest


@pytest.mark.parametrize("place", range(5))
def test_hostile_files_are_read_or_refused(root: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    spec = importlib.util.spec_from_file_location("fuzz", root / "scripts" / "fuzz.py")
    assert spec is not None and spec.loader is not None
    fuzz = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fuzz", fuzz)  # dataclasses look their module up
    spec.loader.exec_module(fuzz)
    av.logging.set_level(av.logging.PANIC)
    outcomes = {number: fuzz.run_case(fuzz.GENERATORS[place], 16, number) for number in range(25)}
    faults = {number: outcome for number, outcome in outcomes.items() if outcome not in ("read", "refused")}
    assert not faults, "\n".join(f"case {number}: {outcome}" for number, outcome in faults.items())
    counts = Counter(outcomes.values())
    assert counts["refused"] and (counts["read"] or "junk" in fuzz.GENERATORS[place].name)
