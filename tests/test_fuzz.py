"""A short part of `scripts/fuzz.py`: whatever comes is read, or refused in one line, and nothing else is touched."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
MEDIA = ("video", "moving picture", "picture", "junk as video", "junk as picture")
QUICK = (
    "adapter", "base", "base folder", "autoencoder", "diffusers VAE", "head", "training settings", "training",
    "autoencoder run", "recipe", "data settings", "list of pairs", "list of jobs", "jobs as CSV", "motion",
)  # fmt: skip


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, and its modules beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    av.logging.set_level(av.logging.PANIC)
    return importlib.import_module("fuzz")


def outcomes(fuzz: ModuleType, name: str, numbers: range) -> Counter[str]:
    """How often each outcome came; fails with every case that is at fault."""
    generator = next(g for g in fuzz.GENERATORS if g.name == name)
    found = {number: fuzz.run_case(generator, 16, number) for number in numbers}
    faults = [f"case {n}: {outcome}" for n, outcome in found.items() if outcome not in ("read", "refused")]
    assert not faults, "\n".join(faults)
    return Counter(found.values())


@pytest.mark.parametrize("name", MEDIA)
def test_hostile_media_are_read_or_refused(fuzz: ModuleType, name: str) -> None:
    counts = outcomes(fuzz, name, range(25))
    assert counts["refused"] and (counts["read"] or "junk" in name)


@pytest.mark.parametrize("name", QUICK)
def test_hostile_weights_and_settings_are_read_or_refused(fuzz: ModuleType, name: str) -> None:
    assert outcomes(fuzz, name, range(5))["refused"]


def test_hostile_command_lines_are_run_or_refused(fuzz: ModuleType) -> None:
    assert outcomes(fuzz, "parameters", range(10))["refused"]


def test_every_kind_is_in_a_test(fuzz: ModuleType) -> None:
    assert [g.name for g in fuzz.GENERATORS] == [*MEDIA, *QUICK, "parameters", "whole commands"]


def test_a_fault_is_seen(fuzz: ModuleType) -> None:
    """A traceback, a file that is changed, one that appears, one that is gone."""

    def make(rng: np.random.Generator, folder: Path) -> Path:
        (folder / "a").write_text("a")
        return folder / "a"

    acts = {
        "ZeroDivisionError": lambda path: 1 / 0, "were changed: ['a']": lambda path: path.write_text("b"),
        "were changed: ['b']": lambda path: Path("b").touch(),
        "['precious.mp4']": lambda _: Path("precious.mp4").unlink(),
    }  # fmt: skip
    for words, act in acts.items():
        assert words in fuzz.run_case(fuzz.Generator("fault", make, act), 1, 1)
    assert fuzz.run_case(fuzz.Generator("fine", make, lambda _: Path("result.mp4").touch()), 1, 1) == "read"
