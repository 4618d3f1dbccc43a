"""The optimiser: AdamW, with Muon for the big matrices if asked for."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from .config import OptimSettings
from .muon import orthogonalise

# Matrices that image tokens go through: attention and feed-forward of the base, full-video attention.
MATRICES = re.compile(r".*\.(attn2?\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|video\.\d+\.to_(q|k|v|out))\.weight$")
MUON_MOMENTUM = 0.95


class MuonAdamW(torch.optim.AdamW):
    """AdamW in which groups with `"muon": True` are updated by Muon (Jordan 2024): orthogonalised momentum.

    One optimiser object, so that schedules, checkpoints and launchers need not know. Orthogonalisation runs in
    bfloat16, as published.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient; closures are not supported."""
        assert closure is None
        for group in self.param_groups:
            if group.get("muon"):
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._update_matrix(weight, group["lr"])
        super().step()

    def _update_matrix(self, weight: Tensor, lr: float) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state.clear()
            state["momentum"] = torch.zeros_like(weight)
        assert weight.grad is not None
        state["momentum"].lerp_(weight.grad, 1 - MUON_MOMENTUM)
        update = torch.lerp(weight.grad, state["momentum"], MUON_MOMENTUM)  # Nesterov
        weight.sub_(orthogonalise(update.bfloat16()).to(weight.dtype), alpha=lr)
        weight.grad = None  # AdamW passes it over


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
