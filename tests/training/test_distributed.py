"""Two CPU processes, started by accelerate's own launcher, against one; with copies of the weights and split (FSDP)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from svdp.errors import UserError
from svdp.training.config import load_config
from svdp.training.loop import train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .conftest import tiny_table
from .test_loop import _toml


def tables(shards: Path, folder: Path) -> dict[str, Path]:
    """One process, two with half the batch each, the same split, and the same split, stopped and resumed."""
    whole = tiny_table(shards, steps=6, optim={"clip": 0.05})
    half = [{**stage, "batch": stage["batch"] // 2} for stage in whole["stage"]]
    split: dict[str, Any] = {**whole, "stage": half, "sharding": "fsdp"}
    for name, table in {"one": whole, "two": {**whole, "stage": half}, "split": split, "parts": split}.items():
        (folder / f"{name}.toml").write_text(_toml(table))
    return {name: folder / f"{name}.toml" for name in ("one", "two", "split", "parts")}


def losses(run: Path) -> dict[str, list[float]]:
    log = EventAccumulator(str(run / "tensorboard")).Reload()
    kinds = ("train/loss", "train/branch", "train/sigma", "train/grad_norm")
    names = [n for n in log.Tags()["scalars"] if n.startswith(kinds)]
    return {name: [e.value for e in log.Scalars(name)] for name in names}


@pytest.mark.slow
def test_two_processes_equal_one(shards: Path, tmp_path: Path, root: Path) -> None:
    files = tables(shards, tmp_path)
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--config_file", str(root / "configs" / "accelerate" / "two-cpu.yaml"), "--main_process_port", "29517"]
    script = [str(root / "tests" / "training" / "distributed.py"), str(root), str(tmp_path)]
    runs = [str(files[n]) for n in ("two", "split", "parts")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, *script, *runs], check=True, cwd=tmp_path, env=environment)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(load_config(files["one"]), tmp_path / "one")
    torch.set_num_threads(threads)

    expected = losses(tmp_path / "one")
    assert len(expected["train/loss"]) == 3 and {"train/branch/d", "train/branch/p"} <= expected.keys()
    for name in ("two", "split"):
        found = losses(tmp_path / name)
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            assert found[key] == pytest.approx(values, abs=1e-4), f"{name} {key}"
    saved = {name: load_file(tmp_path / name / "checkpoints" / "last.safetensors") for name in files}
    for name in ("two", "split"):
        for key in (k for k in saved["one"] if k.startswith(("weight/", "ema/"))):
            torch.testing.assert_close(saved[name][key], saved["one"][key], atol=1e-4, rtol=1e-3)
    assert [k for k in saved["split"] if not torch.equal(saved["split"][k], saved["parts"][k])] == []
    bases = [load_file(tmp_path / name / "weights" / "base.safetensors") for name in ("one", "split")]
    for key in bases[0]:
        torch.testing.assert_close(bases[1][key], bases[0][key], atol=2e-3, rtol=2e-3)


def test_what_cannot_be_split_is_named(tmp_path: Path) -> None:
    for change, message in (({"optim": {"name": "muon"}}, "not muon"), ({"precision": "bf16-weights"}, "precision")):
        (tmp_path / "a.toml").write_text(_toml(tiny_table(tmp_path, sharding="fsdp", **change)))
        with pytest.raises(UserError, match=message):
            load_config(tmp_path / "a.toml")
