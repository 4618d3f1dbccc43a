"""Muon (Keller Jordan, 2024): momentum whose update of every weight matrix is made orthogonal."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Quintic Newton-Schulz iteration with the published coefficients: singular values end up in about [0.7, 1.2].
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(matrix: Tensor) -> Tensor:
    """Roughly the nearest (semi-)orthogonal matrix: same singular vectors, singular values near 1. (rows, columns)."""
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions (the first is the output); give the others to AdamW.

    `lr` is the spectral norm of an update: about 10 times what AdamW would use.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-2, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of all weights that have a gradient; closures are not supported."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group["lr"], group["momentum"])

    def _update(self, weight: Tensor, grad: Tensor, lr: float, momentum: float) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(grad, 1 - momentum)
        update = orthogonalise(torch.lerp(grad, state["momentum"], momentum).flatten(1))  # Nesterov
        weight.sub_(update.view(weight.shape), alpha=lr)
