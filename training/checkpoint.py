"""Checkpoints: one safetensors file each, written whole or not at all, so that a run can be killed at any moment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import UserError
from .ema import Ema
from .sharding import like, whole

FORMAT_VERSION = 1
LAST = "last.safetensors"


@dataclass
class Progress:
    """Where a run stands: what a resumed run must know beside tensors."""

    step: int = 0
    seconds: float = 0.0  # of training, over all parts of the run
    stage: int = 0  # of the curriculum
    best_loss: float | None = None  # held-out, of the averaged weights, in this stage
    best_step: int = 0
    samples: int = 0  # rendered while training
    config: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    progress: Progress,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    ema: Ema,
    write: bool = True,
) -> None:
    """Write trained weights, averages, optimiser states and random state under `path`, replacing it atomically.

    Frozen weights are not written: they come from the base file that the configuration names. Where weights are split
    among processes all must call this, one of them with `write`.
    """
    trained = _trained(module)
    tensors = {f"weight/{k}": p.detach() for k, p in trained.items()}
    tensors |= {f"buffer/{k}": b for k, b in _saved_buffers(module).items()}
    tensors |= {f"ema/{k}": v for k, v in ema.average.items()}
    names = {id(p): name for name, p in trained.items()}
    for optimizer in optimizers:
        tensors |= _optimizer_tensors(optimizer, names)
    tensors |= _random_tensors()
    header = {
        "svdp.checkpoint": str(FORMAT_VERSION),
        "svdp.progress": json.dumps(vars(progress)),
        "svdp.ema_updates": str(ema.num_updates),
    }
    kept = {k: v.cpu().contiguous() for k, v in ((k, whole(v.detach())) for k, v in tensors.items()) if write}
    if write:
        write_atomically(path, kept, header)


@contextmanager
def run_folder(out: Path, *kept: Path) -> Iterator[None]:
    """Makes the folder of a run; if the run fails before it has written one of `kept`, the folder is removed again."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except UserError:
        if made and not any(path.exists() for path in kept):
            shutil.rmtree(out, ignore_errors=True)
            for folder in made[1:]:
                if any(folder.iterdir()):
                    break
                folder.rmdir()
        raise


def write_atomically(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file under another name, flush it to disk, then rename it over `path`."""
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), part, metadata=dict(header))
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle for this
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_checkpoint(path: Path, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], ema: Ema) -> Progress:
    """Restore everything that `save_checkpoint` wrote; training goes on bit for bit as if it had not stopped.

    Raises `UserError` if the file is not there, is damaged or belongs to another model.
    """
    header, tensors = _read(path)
    trained = _trained(module)
    wanted = {f"weight/{k}": p.shape for k, p in trained.items()}
    problems = [k for k, shape in wanted.items() if k not in tensors or tensors[k].shape != shape]
    if problems:
        raise UserError(f"{path} belongs to another model: {problems[0]} and {len(problems) - 1} more do not fit")
    with torch.no_grad():
        for key, weight in trained.items():
            weight.copy_(like(tensors[f"weight/{key}"], weight))
        for key, buffer in _saved_buffers(module).items():
            buffer.copy_(tensors[f"buffer/{key}"])
    ema.load({k: tensors[f"ema/{k}"] for k in ema.weights}, int(header["svdp.ema_updates"]))
    for optimizer in optimizers:
        _load_optimizer(optimizer, {id(p): name for name, p in trained.items()}, tensors)
    _set_random_state(tensors)
    return Progress(**json.loads(header["svdp.progress"]))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"nothing to resume: there is no {path}")
    try:
        with safe_open(str(path), "pt") as file:
            header = dict(file.metadata() or {})
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except SafetensorError as error:
        raise UserError(f"checkpoint {path} is damaged ({error}): start anew without --resume") from error
    if header.get("svdp.checkpoint") != str(FORMAT_VERSION):
        raise UserError(f"{path} is not a training checkpoint of this version")
    return header, tensors


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {k: p for k, p in module.named_parameters() if p.requires_grad}


def _saved_buffers(module: nn.Module) -> dict[str, Tensor]:
    saved = module.state_dict(keep_vars=True)
    return {k: b for k, b in module.named_buffers() if k in saved}


def _optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    tensors = {}
    for weight, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"optim/{key}/{names[id(weight)]}"] = torch.as_tensor(value)
    return tensors


def _load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> None:
    """State of each weight by name; weights that were never stepped have none."""
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optim/"):
            _, kind, name = key.split("/", 2)
            states.setdefault(name, {})[kind] = value
    for group in optimizer.param_groups:
        for weight in group["params"]:
            state = states.get(names[id(weight)])
            if state is not None:
                optimizer.state[weight] = {k: _restored(group, k, v, weight) for k, v in state.items()}


def _restored(group: dict[str, Any], kind: str, value: Tensor, weight: Tensor) -> Tensor:
    """A value of the optimiser's state as the optimiser keeps it; step counters stay where it has them."""
    return value if kind == "step" and not group.get("fused") else like(value, weight)


def _random_tensors() -> dict[str, Tensor]:
    tensors = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors


def _set_random_state(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])
