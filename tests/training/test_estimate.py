"""Counted memory and operations against known ones, and the shipped configurations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from svdp.model.adapter import load_adapter
from svdp.model.backends.diffusers import build_transformer, save_transformer
from svdp.training.config import load_config, parse_config
from svdp.training.data.sources import load_data_config
from svdp.training.estimate import MOST_OPERATIONS, LiveBytes, build, estimate
from svdp.training.loop import Trainer
from svdp.training.recipe import load_recipe
from torch.nn import Linear

from .conftest import tiny_table


def test_live_bytes_follow_what_is_alive() -> None:
    layer = Linear(10, 10, bias=False, device="meta")
    with torch.device("meta"), LiveBytes(layer) as live:
        x = torch.empty(5, 10)
        assert live.now == 200
        y = layer(x)
        assert live.now == live.peak == 400  # the weight is known and not counted
        del y
        assert (live.now, live.peak) == (200, 400)
        x.view(50)
        assert live.now == 200


def test_operations_grow_with_the_batch_and_memory_with_what_is_trained() -> None:
    table = tiny_table(Path("no-data"))
    small = estimate(parse_config(table))
    stages = [{**stage, "batch": 2 * stage["batch"]} for stage in table["stage"]]
    large = estimate(parse_config({**table, "stage": stages}))
    for a, b in zip(small.stages, large.stages, strict=True):
        assert b.operations == pytest.approx(2 * a.operations, rel=0.15)
        assert 1.5 * a.activations < b.activations <= 2.1 * a.activations
    assert small.gradients == small.average == 4 * small.trained and small.optimiser == 8 * small.trained
    assert small.parameters == sum(p.numel() for p in build(parse_config(table)).parameters())
    assert small.steps == 6 and small.seconds > 0
    half = replace(parse_config(table), gradient_checkpointing=True)
    assert estimate(half).stages[0].operations > 1.2 * small.stages[0].operations  # blocks run once more


@pytest.mark.parametrize(
    "name",
    [
        "mini",
        "mini-joint",
        "mini-factorised",
        "mini-nohistory",
        "mini-selfdriven",
        "mini-tokens",
        "mini-aligned",
        "mini-tokensource",
    ],
)
def test_variants_differ_from_the_small_model_in_one_thing(root: Path, name: str) -> None:
    folder = root / "configs" if name == "mini" else root / "configs" / "ablation"
    mini, variant = load_config(root / "configs" / "mini.toml"), load_config(folder / f"{name}.toml")
    same = {"seed", "optim", "loss", "minutes", "base", "precision", "lora", "watch"}
    assert all(variant.to_json()[k] == mini.to_json()[k] for k in same)
    assert [(s.until, s.batch, s.frames) for s in variant.stages] == [(s.until, s.batch, s.frames) for s in mini.stages]
    changed = {k for k, v in variant.adapter.to_json().items() if v != mini.adapter.to_json()[k]}
    expected = {
        "mini-joint": {"conditioning"}, "mini-factorised": {"video_scope"}, "mini-nohistory": {"num_history"},
        "mini-tokens": {"driving"}, "mini-aligned": {"driving"}, "mini-tokensource": {"source"},
    }  # fmt: skip
    assert changed == expected.get(name, set())
    assert (variant.data != mini.data) == (name == "mini-selfdriven")


def test_each_part_can_start_from_the_one_before(root: Path) -> None:
    first, then, last = (load_config(root / "configs" / f"mini{n}.toml") for n in ("", "-then", "-last"))
    for part in (then, last):
        assert first.adapter == part.adapter and first.base == part.base and first.data.root == part.data.root
        assert not any(s.frames < 3 for s in part.stages)
        assert part.stages[-1].frames == part.adapter.segment_length and part.stages[-1].history == 3


def test_the_bundled_model_is_of_its_recipe(root: Path) -> None:
    bundled = load_adapter(root / "assets" / "svdp" / "mini_adapter.safetensors")
    recipe = load_recipe(root / "configs" / "bundled.toml")
    assert bundled.adapter.config == recipe.adapter
    assert bundled.info["training"]["step"] > 1000 and bundled.info["license"] == "Apache-2.0"
    assert bundled.info["sampling"]["steps"] == recipe.sampling.steps


def test_full_size_configurations_are_valid(root: Path) -> None:
    small, full = (load_config(root / "configs" / f"{n}.toml") for n in ("sd35m", "sd35m-full"))
    assert not small.base.train and small.lora.rank and full.base.train and full.sharding == "fsdp"
    data = load_data_config(root / "configs" / "sd35m-data.toml")
    assert (data.size, data.crop_scale) == (small.adapter.resolution, small.adapter.crop_scale)
    assert data.frames >= small.window
    assert load_data_config(root / "configs" / "ablation" / "mini-selfdriven-data.toml").cross_share == 0


def test_a_frozen_half_precision_base_is_counted_timed_in_part_and_trained(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tiny_table(shards, steps=1, precision="bf16", lora={"rank": 2}, gradient_checkpointing=True)
    architecture = table["base"]["architecture"] | {"depth": 3}
    path = tmp_path / "base.safetensors"
    table["base"] = {"architecture": architecture, "path": str(path), "train": False, "dtype": "bfloat16"}
    config = parse_config(table)
    monkeypatch.setitem(MOST_OPERATIONS, "cpu", 1e6)
    cost = estimate(config, torch.device("cpu"))
    assert cost.timed == "2 of 3 blocks, 1 of 4 frames, 1 of 2 clips"
    assert cost.trained < 0.5 * cost.parameters and cost.weights < 4 * cost.parameters + 6 * cost.trained
    save_transformer(path, build_transformer(config.base.architecture), {}, torch.float32)
    trainer = Trainer(config, tmp_path / "run")
    kinds = {p.dtype for k, p in trainer.denoiser.transformer.named_parameters() if "lora_" not in k}
    assert kinds == {torch.bfloat16} and all(p.dtype == torch.float32 for p in trainer.trained)
    assert trainer.run(lambda progress: False).finished
