"""The comparisons in `scripts/`: the ablation runs through with a tiny model, the learning curve finds a known one."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from svdp.training.config import parse_config
from svdp.training.estimate import build

from .conftest import tiny_table
from .test_loop import _toml


@pytest.fixture
def script(root: Path, monkeypatch: pytest.MonkeyPatch):
    """A script of `scripts/` as a module."""
    monkeypatch.syspath_prepend(str(root / "scripts"))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, root / "scripts" / f"{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def test_every_variant_has_the_common_budget_and_curriculum(script, root: Path) -> None:
    ablation = script("ablation")
    options = Namespace(curriculum=root / "configs" / "ablation" / "curriculum.toml", data=Path("/there"), minutes=8.0)
    options.steps, options.clips = None, 16
    found = {name: ablation.configuration(name, options) for name in ablation.VARIANTS}
    assert {c.minutes for c in found.values()} == {8.0} and {c.steps for c in found.values()} == {0}
    assert {c.stages for n, c in found.items() if n != "mini-nohistory"} == {found["mini"].stages}
    assert found["mini-nohistory"].stages[-1].history == 0
    assert (found["mini"].seed, found["mini@12"].seed, found["mini@12"].name) == (11, 12, "mini")
    assert {c.data.root for c in found.values()} == {"/there/mini", "/there/mini-selfdriven"}
    assert found["mini@12"].adapter == found["mini"].adapter
    forms = [c.adapter for n, c in found.items() if n not in ("mini", "mini@12", "mini-selfdriven")]
    assert len(set(forms)) == len(forms) and found["mini"].adapter not in forms


def test_the_ablation_runs_through(shards: Path, root: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(_toml(tiny_table(shards)))
    command = [sys.executable, str(root / "scripts" / "ablation.py"), str(tmp_path / "out"), str(config), f"{config}@4"]
    command += ["--data", str(shards.parent), "--steps", "2", "--clips", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root.parent, env=os.environ)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert list(rows) == ["tiny", "tiny@4"] and {row["steps"] for row in rows.values()} == {2}
    assert rows["tiny"]["loss/d"] != rows["tiny@4"]["loss/d"]
    lines = (tmp_path / "out" / "ablation.md").read_text().splitlines()
    assert len(lines) == 4 and lines[2].startswith("| tiny | 2 |")


def test_a_known_power_law_is_found_and_what_does_not_rise_never_arrives(script) -> None:
    curve = script("learning_curve")
    minutes = (50.0, 80.0, 120.0, 200.0)
    points = [
        {"minutes": t, "mouth_open": 1 - 2 * t**-0.4, "psnr": 10 + 4 * math.log10(t), "yaw": 0.3} for t in minutes
    ]
    mouth = curve.reach(points, "mouth_open", 0.9)
    assert mouth["minutes"] == pytest.approx((2 / 0.1) ** (1 / 0.4), rel=1e-6)
    assert mouth["low"] == pytest.approx(mouth["minutes"], rel=1e-6)
    assert curve.reach(points, "psnr", 22.0)["minutes"] == pytest.approx(1000.0, rel=1e-6)
    assert curve.reach(points, "yaw", 0.95)["minutes"] is None
    unseen = [{**point, "mouth_open": None} for point in points]  # no face in any sampled clip
    assert curve.reach(unseen, "mouth_open", 0.9) == {"minutes": None, "low": None, "high": None}


def test_sampling_is_counted_without_a_device_and_timed_with_one(script, shards: Path) -> None:
    sampling = script("sampling")
    table = tiny_table(shards, adapter={"gate": "open", "video_head_dim": 8, "segment_length": 4, "num_history": 2})
    config = parse_config({**table, "adapter": {**table["adapter"], "resolution": 64}})
    assert sampling.row(config, Namespace(device=None))[4:] == ["-"] * 4
    counted = sampling.count(config)
    assert counted.weights == 2 * sum(p.numel() for p in build(config).parameters())
    longer = sampling.count(replace(config, adapter=replace(config.adapter, segment_length=8)))
    assert longer.weights == counted.weights
    assert 1.5 < longer.beside / counted.beside < 3 and 1.5 < longer.operations / counted.operations < 3
    device, once, step, peak = sampling.row(config, Namespace(device="cpu", steps=1))[4:]
    assert device.startswith("cpu") and float(once) > 0 and float(step) > 0 and peak == "-"
