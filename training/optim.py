"""The optimiser: AdamW, with Muon (Keller Jordan, 2024) for the big matrices if asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .config import OptimSettings

# Matrices that image tokens go through: attention and feed-forward of the base, full-video attention.
MATRICES = re.compile(r".*\.(attn2?\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|video\.\d+\.to_(q|k|v|out))\.weight$")
MOMENTUM = 0.95
# Quintic Newton-Schulz iteration with the published coefficients: singular values end up in about [0.7, 1.2].
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Roughly the nearest (semi-)orthogonal matrices (..., rows, columns): same singular vectors, values near 1."""
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class MuonAdamW(torch.optim.AdamW):
    """AdamW in which groups with `"muon": True` are updated by Muon: orthogonalised momentum.

    It is one optimiser, so that schedules, checkpoints and launchers need not know. `torch.optim.Muon` came with
    PyTorch 2.9 only. A Muon group's rate is the spectral norm of an update: about 10 times AdamW's. Weights of more
    than two dimensions count as (output, rest). Orthogonalisation runs in bfloat16, as published.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient; closures are not supported."""
        assert closure is None
        for group in self.param_groups:
            if group.get("muon"):
                alike: dict[tuple[int, ...], list[Tensor]] = {}
                for weight in group["params"]:
                    if weight.grad is not None:
                        alike.setdefault(tuple(weight.shape), []).append(weight)
                for weights in alike.values():
                    self._update_matrices(weights, group["lr"])
        super().step()

    def _update_matrices(self, weights: Sequence[Tensor], lr: float) -> None:
        """Weights of one shape: at once on a GPU, one by one on a CPU, which is quicker there."""
        updates = [self._nesterov(weight).flatten(1).bfloat16() for weight in weights]
        if weights[0].is_cuda:
            updates = list(orthogonalise(torch.stack(updates)))
        else:
            updates = [orthogonalise(update) for update in updates]
        for weight, update in zip(weights, updates, strict=True):
            weight.sub_(update.to(weight.dtype).view(weight.shape), alpha=lr)
            weight.grad = None  # AdamW passes it over

    def _nesterov(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        assert weight.grad is not None
        momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
        return torch.lerp(weight.grad, momentum, MOMENTUM)


def build_optimizer(module: nn.Module, optim: OptimSettings) -> torch.optim.Optimizer:
    """Fused AdamW on the trained weights, weight decay on matrices only; with "muon" that for `MATRICES`."""
    trained = {k: p for k, p in module.named_parameters() if p.requires_grad}
    matrices = [k for k in trained if optim.name == "muon" and MATRICES.match(k)]
    rest = [p for k, p in trained.items() if k not in matrices]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    settings: dict[str, Any] = {"lr": optim.lr, "betas": optim.betas, "fused": True}
    if not matrices:
        return torch.optim.AdamW(groups, **settings)
    own = {"params": [trained[k] for k in matrices], "weight_decay": 0.0, "muon": True}
    return MuonAdamW([*groups, {**own, "scale": optim.muon_lr / optim.lr}], **settings)


def set_learning_rate(optimizer: Any, rate: float) -> None:
    """The rate of all groups, those with a `"scale"` times that."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
