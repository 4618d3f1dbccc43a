"""FSDP (Zhao et al. 2023, arXiv 2304.11277): weights, gradients, optimiser state and averages split among processes.

The whole model is one unit: its weights are gathered for the forward and backward pass, everything else stays split
(as in ZeRO-2). Communication and sums are in float32, so that a run is the same as on one process but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module: nn.Module, device: torch.device, num_processes: int) -> None:
    """Split the module's parameters among all processes, in place. An optimiser must be made after that."""
    fully_shard(module, mesh=init_device_mesh(device.type, (num_processes,)))


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Inside, a split module has whole weights, in every process, and may be used by one of them alone."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


@torch.no_grad()
def gather_into(plain: nn.Module | None, module: nn.Module) -> None:
    """Copy a split module's whole weights into one that is not, where there is one; all processes must call this."""
    mine = plain.state_dict() if plain is not None else {}
    for name, value in module.state_dict().items():
        value = whole(value)
        if plain is not None:
            mine[name].copy_(value)


def whole(tensor: Tensor) -> Tensor:
    """A split tensor put together (all processes must ask for it); others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """This process's part of a split tensor, sharing its memory; others as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor on the device of `other`, and split as it is."""
    value = value.to(other.device)
    if isinstance(other, DTensor) and value.shape == other.shape:
        return distribute_tensor(value, other.device_mesh, other.placements)
    return value
