"""Checkpoints: everything comes back, a broken write leaves the old file, wrong files are refused. And the average."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from svdp.errors import UserError
from svdp.training.checkpoint import Progress, load_checkpoint, save_checkpoint, write_atomically
from svdp.training.config import OptimSettings
from svdp.training.ema import Ema
from svdp.training.optim import build_optimizer
from torch import nn
from torch.nn import Linear


def make(width: int = 4) -> tuple[nn.Module, list[torch.optim.Optimizer], Ema]:
    torch.manual_seed(0)
    module = nn.Sequential(Linear(3, width), nn.BatchNorm1d(width), Linear(width, 2))
    module[2].bias.requires_grad_(False)
    return module, [build_optimizer(module, OptimSettings(lr=0.1))], Ema(module, 0.9)


def step(module: nn.Module, optimizers: list[torch.optim.Optimizer], ema: Ema, number: int) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number)) + 0.1 * torch.rand(8, 3)  # global RNG too
    (optimizer,) = optimizers
    optimizer.zero_grad(set_to_none=True)
    module(x).square().mean().backward()
    if number == 0:
        module[0].bias.grad = None  # a weight that its first branch did not use has no state yet
    optimizer.step()
    ema.update()


def test_training_goes_on_bit_for_bit_from_a_checkpoint(tmp_path: Path) -> None:
    one = make()
    for i in range(6):
        step(*one, i)
        if i == 0:
            save_checkpoint(tmp_path / "early.safetensors", Progress(step=1), *one)
        if i == 2:
            save_checkpoint(tmp_path / "c.safetensors", Progress(step=3, seconds=1.5, best_loss=0.25), *one)
    for name, start in (("early", 1), ("c", 3)):
        two = make()
        progress = load_checkpoint(tmp_path / f"{name}.safetensors", *two)
        assert progress.step == start
        for i in range(start, 6):
            step(*two, i)
        for (key, a), b in zip(one[0].state_dict().items(), two[0].state_dict().values(), strict=True):
            assert torch.equal(a, b), key
        assert all(torch.equal(one[2].average[k], two[2].average[k]) for k in one[2].average)
    assert (progress.seconds, progress.best_loss) == (1.5, 0.25)


def test_a_write_that_dies_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    parts = make()
    save_checkpoint(path, Progress(step=1), *parts)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("svdp.training.checkpoint.os.replace", die)  # everything is written but the rename
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, Progress(step=2), *parts)
    assert load_checkpoint(path, *make()).step == 1
    save_checkpoint(path, Progress(step=3), *parts)
    assert load_checkpoint(path, *make()).step == 3
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_files_that_are_not_a_checkpoint_of_this_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(UserError, match="nothing to resume"):
        load_checkpoint(path, *make())
    save_checkpoint(path, Progress(), *make())
    with pytest.raises(UserError, match=r"belongs to another model: weight/0\.weight and 4 more"):
        load_checkpoint(path, *make(width=5))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path, *make())
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="not a training checkpoint"):
        load_checkpoint(path, *make())


def test_atomic_write_makes_its_folder(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "t.safetensors", {"a": torch.ones(2)}, {"k": "v"})
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["t.safetensors"]


def test_average_follows_its_formula_and_lets_go_of_the_start() -> None:
    module, _, ema = make()
    expected = module[0].weight.detach().clone().double()
    for n in range(30):
        with torch.no_grad():
            module[0].weight.fill_(float(n))
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    torch.testing.assert_close(ema.average["0.weight"].double(), expected, atol=1e-5, rtol=1e-5)
    assert "2.bias" not in ema.average  # frozen


def test_applied_average_is_in_the_module_only_inside() -> None:
    module, optimizers, ema = make()
    step(module, optimizers, ema, 1)
    trained, average = module[0].weight.detach().clone(), ema.average["0.weight"].clone()
    assert not torch.equal(trained, average)
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        assert torch.equal(module[0].weight, average)
        raise RuntimeError("inside")
    assert torch.equal(module[0].weight, trained)
    assert torch.equal(ema.average["0.weight"], average)
