"""The loop on a tiny real model: determinism, resume, curriculum, branches, learning, condition-swap gaps, export."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from svdp.errors import AdapterMismatchError, UserError
from svdp.model.adapter import load_adapter
from svdp.model.autoencoder import TinyAutoencoder
from svdp.model.backends.diffusers import Denoiser, build_transformer, load_transformer, merge_lora, save_transformer
from svdp.model.fusion import BRANCHES
from svdp.training.config import BranchProbabilities, TrainConfig, parse_config
from svdp.training.loop import Trainer, train
from svdp.training.monitor import ConditionSwapGaps, conditions_of
from svdp.training.schedule import draw_branch, learning_rate, progress_at, rng, stage_at
from svdp.training.setup import lora_deltas
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .conftest import tiny_table


def tiny(shards: Path, **changes: Any) -> TrainConfig:
    return parse_config(tiny_table(shards, **changes))


def checkpoint(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / "last.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


@pytest.mark.parametrize(("precision", "optimiser"), [("no", "adamw"), ("bf16-weights", "muon")])
def test_resumed_equals_uninterrupted_bit_for_bit(shards: Path, tmp_path: Path, precision: str, optimiser: str) -> None:
    config = tiny(shards, precision=precision, optim={"name": optimiser})
    assert train(config, tmp_path / "whole").finished
    stopped = train(config, tmp_path / "parts", should_stop=lambda progress: progress.step == 2)
    assert (stopped.step, stopped.finished) == (2, False)
    assert not train(config, tmp_path / "parts", resume=True, should_stop=lambda p: p.step == 5).finished
    assert train(config, tmp_path / "parts", resume=True).step == 6
    assert_same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))


@pytest.mark.parametrize("precision", ["no", "bf16-weights"])
def test_gates_open_evenly_and_are_gone_from_the_weights(shards: Path, tmp_path: Path, precision: str) -> None:
    table = tiny_table(shards, precision=precision, gate_steps=4)
    table["adapter"] = {**table["adapter"], "gate": "learned"}
    trainer, gates = Trainer(parse_config(table), tmp_path / "out"), []
    for _ in range(6):
        trainer.train_step(0.0)
        copy = trainer.denoiser if trainer.bf16_copy is None else trainer.bf16_copy.module
        gates.append(copy.adapter.condition_gate.tolist())
    depth = trainer.config.base.architecture.depth
    assert gates == [[share] * depth for share in (0, 0.25, 0.5, 0.75, 1, 1)]
    trainer.save()
    assert load_adapter(tmp_path / "out" / "weights" / "adapter.safetensors").adapter.config.gate == "open"


def test_starts_from_weights_of_an_earlier_run(shards: Path, tmp_path: Path) -> None:
    first = train(tiny(shards), tmp_path / "first").weights
    table = tiny_table(shards, start=str(first / "adapter.safetensors"))
    table["base"]["path"] = str(first / "base.safetensors")
    denoiser = Trainer(parse_config(table), tmp_path / "second").denoiser
    expected = load_adapter(first / "adapter.safetensors").adapter.state_dict()
    assert_same(dict(denoiser.adapter.state_dict()), dict(expected))
    base = load_transformer(first / "base.safetensors").state_dict()
    assert_same(dict(denoiser.transformer.state_dict()), dict(base))
    assert all(p.requires_grad for p in denoiser.parameters())
    told = load_adapter(train(parse_config(table), tmp_path / "told").weights / "adapter.safetensors").info["training"]
    assert told["settings"]["start"] == "adapter.safetensors" and str(tmp_path) not in json.dumps(told)
    table["adapter"] = {**table["adapter"], "conditioning": "joint"}
    with pytest.raises(AdapterMismatchError, match="conditioning 'cached' instead of 'joint'"):
        Trainer(parse_config(table), tmp_path / "third")


@pytest.mark.slow
def test_killed_run_goes_on_from_its_last_checkpoint(shards: Path, tmp_path: Path) -> None:
    config = tiny(shards, steps=16, watch={"checkpoint_minutes": 1e-9, "log_every": 100, "probe_every": 0})
    train(config, tmp_path / "whole")
    code = (
        "import sys, torch; sys.path[:0] = sys.argv[1:2]\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"  # sums depend on it in the last bit
        "from pathlib import Path\n"
        "from svdp.training.config import load_config\n"
        "from svdp.training.loop import train\n"
        "train(load_config(sys.argv[2]), sys.argv[3])\n"
    )
    table = tmp_path / "tiny.toml"
    table.write_text(
        _toml(tiny_table(shards, steps=16, watch={"checkpoint_minutes": 1e-9, "log_every": 100, "probe_every": 0}))
    )
    run = subprocess.Popen([sys.executable, "-c", code, "", str(table), str(tmp_path / "killed")])
    saved = tmp_path / "killed" / "checkpoints" / "last.safetensors"
    while not saved.exists():
        assert run.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    train(config, tmp_path / "killed", resume=True)
    assert_same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed"))


def _toml(table: dict[str, Any], prefix: str = "") -> str:
    """Enough of TOML for the tiny table."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{k} = {text(v)}" for k, v in value.items()) + " }"
        if isinstance(value, list):
            return "[" + ", ".join(map(text, value)) + "]"
        return str(value).lower() if isinstance(value, bool) else repr(value)

    return "\n".join(f"{k} = {text(v)}" for k, v in table.items())


def test_sigterm_ends_the_run_after_the_step_with_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def terminate_once(progress: Any) -> bool:
        if progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    result = train(tiny(shards), tmp_path, should_stop=terminate_once)
    assert (result.step, result.finished) == (2, False)
    assert (tmp_path / "checkpoints" / "last.safetensors").is_file()
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped at step 2" in (tmp_path / "train.log").read_text()


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(shards: Path, tmp_path: Path) -> None:
    train(tiny(shards), tmp_path, should_stop=lambda p: p.step == 1)
    with pytest.raises(UserError, match="holds a run already"):
        train(tiny(shards), tmp_path)
    with pytest.raises(UserError, match="other settings of: seed, optim"):
        train(tiny(shards, seed=4, optim={"lr": 1e-3}), tmp_path, resume=True)
    assert train(tiny(shards, steps=2), tmp_path, resume=True).finished  # another budget is fine
    with pytest.raises(UserError, match="nothing to resume"):
        train(tiny(shards), tmp_path / "empty", resume=True)


def test_bfloat16_working_copy_gives_the_gradients_of_the_float32_masters(shards: Path, tmp_path: Path) -> None:
    gradients = []
    for precision in ("no", "bf16-weights"):
        trainer = Trainer(tiny(shards, precision=precision, optim={"clip": 1e9}), tmp_path)
        before = [p.detach().clone() for p in trainer.trained]
        trainer.train_step(0.0)
        assert all(p.dtype == torch.float32 for p in trainer.trained)
        assert any(not torch.equal(p, b) for p, b in zip(trainer.trained, before, strict=True))
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.trained if p.grad is not None]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
    assert gradients[1].norm() / gradients[0].norm() == pytest.approx(1.0, abs=0.02)


# --- schedule --------------------------------------------------------------------------------------------------------


def test_branches_come_as_often_as_configured() -> None:
    count = 4000
    probabilities = BranchProbabilities(u=0.1, s=0.0, d=0.3, p=0.6)
    drawn = [draw_branch(probabilities, rng(0, i)) for i in range(count)]
    assert "s" not in drawn
    for branch, p in zip(BRANCHES, probabilities.values, strict=True):
        assert abs(drawn.count(branch) - p * count) <= 4 * math.sqrt(p * (1 - p) * count)


def test_curriculum_changes_at_its_shares_of_the_budget(shards: Path, tmp_path: Path) -> None:
    config = tiny(shards, steps=8)
    first, second = config.stages
    expected = [first] * 4 + [second] * 4
    assert [stage_at(config.stages, progress_at(config, n, 0.0)) for n in range(8)] == expected
    timed = replace(config, steps=0, minutes=2.0)
    assert stage_at(timed.stages, progress_at(timed, 10**6, 59.9)) is first
    assert stage_at(timed.stages, progress_at(timed, 0, 60.0)) is second
    assert progress_at(timed, 0, 121.0) == 1.0

    trainer = Trainer(config, tmp_path)
    shapes = []
    for n in range(8):
        trainer._enter_stage(n / 8)
        shapes.append(tuple(trainer.draw(n, 0)[0].history.shape[:2]))
    assert shapes == [(4, 0)] * 4 + [(2, 2)] * 4


def test_learning_rate_warms_up_and_falls_to_its_end(shards: Path) -> None:
    optim = replace(tiny(shards).optim, lr=1.0, warmup=4, final_lr=0.1)
    assert [learning_rate(optim, n, 0.0) for n in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(optim, 100, 0.5) == pytest.approx(0.55)
    assert learning_rate(optim, 100, 1.0) == pytest.approx(0.1)


def test_a_step_depends_on_the_seed_and_its_number_alone(shards: Path, tmp_path: Path) -> None:
    one, two = Trainer(tiny(shards), tmp_path), Trainer(tiny(shards), tmp_path)
    for n in (0, 1, 2):
        two.draw(n, 0)
    for a, b in zip(one.draw(3, 0)[1:], two.draw(3, 0)[1:], strict=True):
        assert a == b if isinstance(a, str) else torch.equal(a, b)
    assert torch.equal(one.draw(3, 0)[0].source, two.draw(3, 0)[0].source)
    assert not torch.equal(one.draw(3, 0)[3], one.draw(4, 0)[3])
    other = Trainer(tiny(shards, seed=4), tmp_path)
    assert not torch.equal(one.draw(3, 0)[3], other.draw(3, 0)[3])


def test_accumulated_micro_batches_equal_one_large_batch(shards: Path, tmp_path: Path) -> None:
    stage = {"batch": 4, "frames": 3, "branches": {"u": 0, "s": 0, "d": 1}}
    whole = tiny(shards, steps=2, stage=[stage], adapter={"token_multiple": 16})
    parts = tiny(
        shards, steps=2, stage=[{**stage, "batch": 2}], adapter={"token_multiple": 16}, optim={"accumulate": 2}
    )
    weights = []
    for name, config in (("whole", whole), ("parts", parts)):
        train(config, tmp_path / name)
        weights.append(checkpoint(tmp_path / name))
    for key in (k for k in weights[0] if k.startswith("weight/")):
        torch.testing.assert_close(weights[0][key], weights[1][key], atol=1e-4, rtol=1e-3)


# --- learning --------------------------------------------------------------------------------------------------------


def test_dropped_conditions_are_absent(shards: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny(shards), tmp_path)
    trainer._enter_stage(0.9)
    batch = trainer.draw(0, 0)[0]
    given = {b: conditions_of(batch, b, trainer.config.adapter) for b in BRANCHES}
    present = {
        b: [n for n in ("source", "driving", "driving_index", "history") if getattr(c, n) is not None]
        for b, c in given.items()
    }
    assert present == {
        "u": [],
        "s": ["source"],
        "d": ["source", "driving", "driving_index"],
        "p": ["source", "driving", "driving_index", "history"],
    }


def test_one_clip_is_learnt_by_heart(shards: Path, tmp_path: Path) -> None:
    stage = {"batch": 4, "frames": 3, "branches": {"u": 0, "s": 0, "d": 1}}
    config = tiny(shards, steps=150, stage=[stage], data={"region_dropout": 0.0}, optim={"lr": 5e-3, "clip": 10.0})
    trainer = Trainer(config, tmp_path)
    trainer.clips.sources, trainer.clips.target, trainer.clips.driving, trainer.clips.regions = (
        x[:1] for x in (trainer.clips.sources, trainer.clips.target, trainer.clips.driving, trainer.clips.regions)
    )
    losses = []
    for _ in range(config.steps):
        trainer.train_step(0.0)
        losses.append(trainer.monitor.losses.take()["loss"])
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])


def test_condition_swap_gap_is_zero_until_the_model_uses_the_driver(shards: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny(shards, adapter={"driving": "aligned"}), tmp_path)
    gaps = ConditionSwapGaps(trainer.heldout, 3, seed=0, chunk=2)
    for p in (trainer.denoiser.transformer.proj_out.weight, trainer.denoiser.transformer.norm_out.linear.weight):
        torch.nn.init.normal_(p, std=0.2, generator=rng(1))
    ignoring = gaps.measure(trainer.denoiser, frames=4, history=2)
    assert ignoring["gap/driver/inside"] == ignoring["gap/driver/outside"] == 0.0
    assert abs(ignoring["gap/source/outside"]) > 1e-6  # the source enters through attention from the start

    projection = trainer.denoiser.adapter.driving_proj
    assert projection is not None
    torch.nn.init.normal_(projection.weight, std=0.3, generator=rng(2))
    assert abs(gaps.measure(trainer.denoiser, frames=4, history=2)["gap/driver/inside"]) > 1e-4


def test_training_makes_the_condition_swap_gap_of_the_driver_positive(shards: Path, tmp_path: Path) -> None:
    """Clips of the same still picture, told apart by the driver alone: to be right, the model must look at it."""
    stage = {"batch": 6, "frames": 3, "branches": {"u": 0, "s": 0, "d": 1}}
    config = tiny(shards, steps=140, stage=[stage], data={"region_dropout": 0.0}, optim={"lr": 5e-3, "clip": 10.0})
    trainer = Trainer(config, tmp_path)
    clips = trainer.clips
    clips.sources[:] = clips.sources[:1]
    clips.target[:] = torch.where(clips.regions.any(2, keepdim=True), clips.driving, clips.sources[:1, :1])
    gaps = ConditionSwapGaps(clips, 6, seed=0, chunk=6)
    for _ in range(config.steps):
        trainer.train_step(0.0)
    with trainer.ema.applied():
        measured = gaps.measure(trainer.denoiser, frames=3, history=0)
    assert measured["gap/driver/inside"] > 0.1
    assert measured["gap/driver/inside"] > 2 * abs(measured["gap/driver/outside"])


# --- what comes out --------------------------------------------------------------------------------------------------


def test_exported_weights_are_the_average_of_the_run(shards: Path, tmp_path: Path) -> None:
    config = tiny(shards, steps=3, info={"license": "Apache-2.0"})
    result = train(config, tmp_path)
    file = load_adapter(result.weights / "adapter.safetensors")
    assert file.info["license"] == "Apache-2.0"
    assert file.info["training"]["step"] == 3
    assert str(shards) not in str(file.info)
    saved = checkpoint(tmp_path)
    loaded = Denoiser(load_transformer(result.weights / "base.safetensors"), file.adapter).state_dict()
    for key in (k for k in saved if k.startswith("ema/")):
        torch.testing.assert_close(loaded[key[4:]], saved[key].half().float(), atol=0, rtol=0)
    assert {p.name for p in tmp_path.iterdir()} >= {"best", "checkpoints", "tensorboard", "train.log", "weights"}


def test_lora_on_a_frozen_base_is_exported_and_merges_back(shards: Path, tmp_path: Path) -> None:
    config = tiny(shards, steps=3)
    base = build_transformer(config.base.architecture)
    save_transformer(tmp_path / "base.safetensors", base, {}, torch.float32)
    frozen = replace(config.base, path=str(tmp_path / "base.safetensors"), train=False)
    trainer = Trainer(replace(config, base=frozen, lora=replace(config.lora, rank=2, alpha=4)), tmp_path / "run")
    names = [k for k, p in trainer.denoiser.named_parameters() if p.requires_grad]
    assert all(k.startswith("adapter.") or "lora_" in k for k in names)
    assert any("lora_" in k for k in names)
    trainer.run(lambda progress: False)
    assert not (tmp_path / "run" / "weights" / "base.safetensors").exists()

    deltas = lora_deltas(trainer.denoiser.transformer)
    assert any(v.abs().max() > 0 for k, v in deltas.items() if k.endswith(".B.weight"))
    merge_lora(base, {k: v.detach() for k, v in deltas.items()})
    merged = Denoiser(base, trainer.denoiser.adapter).train(False)
    batch = trainer.draw(0, 0)[0]
    conditions = conditions_of(batch, "p", config.adapter)
    sigmas = torch.full((len(batch.clips),), 0.5)
    with torch.no_grad():
        expected = trainer.denoiser.train(False)(batch.target, sigmas, conditions)
        torch.testing.assert_close(merged(batch.target, sigmas, conditions), expected, atol=1e-5, rtol=1e-4)


def test_a_run_with_lora_can_be_started_from(shards: Path, tmp_path: Path) -> None:
    config = tiny(shards, steps=1)
    save_transformer(tmp_path / "base.safetensors", build_transformer(config.base.architecture), {}, torch.float32)
    base = replace(config.base, path=str(tmp_path / "base.safetensors"), train=False)
    config = replace(config, base=base, lora=replace(config.lora, rank=2, alpha=4))
    weights = train(config, tmp_path / "first").weights
    again = replace(config, start=str(weights / "adapter.safetensors"))
    deltas = lora_deltas(Trainer(again, tmp_path / "second").denoiser.transformer)
    for key, value in load_adapter(weights / "adapter.safetensors").lora.items():
        torch.testing.assert_close(deltas[key].detach(), value, atol=1e-6, rtol=1e-3)
    with pytest.raises(AdapterMismatchError, match=r"LoRA deltas of rank 2 .* set \[lora\] rank to the same"):
        Trainer(replace(again, lora=replace(config.lora, rank=3)), tmp_path / "third")


def test_sample_grid_shows_every_clip(shards: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    TinyAutoencoder().save(tmp_path / "ae.safetensors")
    watch = {"autoencoder": str(tmp_path / "ae.safetensors"), "grid_minutes": 60.0, "grid_clips": 2, "grid_steps": 2}
    train(tiny(shards, steps=2, watch=watch), tmp_path / "run")
    picture = Image.open(tmp_path / "run" / "samples" / "step-000002.png")
    assert picture.size == (10 * 68, 2 * 68)  # source and three frames of target, driver, result; 64 px and a gap
    assert "dB against the true frames" in (tmp_path / "run" / "train.log").read_text()
    film = Image.open(tmp_path / "run" / "samples" / "step-000002.webp")
    assert (film.n_frames, film.size) == (9, (4 * 64, 2 * 64))  # source, target, driver, result
    log = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    shown = Image.open(io.BytesIO(log.Images("video")[0].encoded_image_string))
    assert (shown.format, shown.n_frames) == ("GIF", 9)


def test_diverged_training_ends_with_the_remedy(shards: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny(shards), tmp_path)
    torch.nn.init.constant_(trainer.denoiser.transformer.proj_out.weight, float("nan"))
    with pytest.raises(UserError, match=r"diverged before step 2: resume with a lower \[optim\] lr"):
        trainer.run(lambda progress: False)
