"""The 8-bit optimiser: named where it is missing, exact over a resume where it is there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from svdp.errors import UserError
from svdp.training.config import OptimSettings, parse_config
from svdp.training.loop import train
from svdp.training.optim import build_optimizer
from torch.nn import Linear

from .conftest import tiny_table


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"needs bitsandbytes.*or set \[optim\] name"):
        build_optimizer(Linear(2, 2), OptimSettings(name="adamw8bit"))


def test_eight_bit_run_follows_the_full_one_and_goes_on_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = parse_config(tiny_table(shards, optim={"name": "adamw8bit"}))
    train(config, tmp_path / "whole")
    assert not train(config, tmp_path / "parts", should_stop=lambda progress: progress.step == 4).finished
    train(config, tmp_path / "parts", resume=True)
    train(parse_config(tiny_table(shards)), tmp_path / "full")
    runs = [tmp_path / name / "checkpoints" / "last.safetensors" for name in ("whole", "parts", "full")]
    whole, parts, full = map(load_file, runs)
    assert any(v.dtype == torch.uint8 for k, v in whole.items() if k.startswith("optim/"))
    assert [k for k in whole if not torch.equal(whole[k], parts[k])] == []
    for key in (k for k in full if k.startswith("weight/")):
        torch.testing.assert_close(whole[key], full[key], atol=5e-3, rtol=0.05)
