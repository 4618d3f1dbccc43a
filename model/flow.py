"""Rectified flow as SD3 has it (Esser et al. 2024, arXiv 2403.03206): x_sigma = (1 - sigma) x0 + sigma noise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import UserError
from .config import Solver

Velocity = Callable[[Tensor, float], Tensor]  # (x at sigma, sigma) -> noise - x0
StepCallback = Callable[[int, Tensor], None]  # (steps done, predicted x0); may raise to stop
SOLVERS: tuple[Solver, ...] = ("euler", "dpmpp_2m")


def shift_sigma(t: Tensor, shift: float) -> Tensor:
    """Resolution shift of the schedule, sigma = shift t / (1 + (shift - 1) t) (arXiv 2403.03206, Eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def schedule_progress(sigma: float, shift: float) -> float:
    """Fraction of the schedule that lies behind `sigma`: 0 at sigma 1, 1 at sigma 0 (inverse of `shift_sigma`)."""
    return 1.0 - sigma / (shift - (shift - 1) * sigma)


def sigma_schedule(steps: int, shift: float) -> Tensor:
    """Noise levels (steps + 1,) from 1 down to 0, float32. Raises `UserError` if steps < 1."""
    if steps < 1:
        raise UserError(f"sampling needs at least 1 step, got {steps}")
    return shift_sigma(torch.linspace(1.0, 0.0, steps + 1), shift)


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x at noise level sigma (B,) for clips x0 (B, ...)."""
    s = sigma.reshape(-1, *[1] * (x0.ndim - 1)).to(x0.dtype)
    return (1 - s) * x0 + s * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """What the model learns: d x / d sigma = noise - x0."""
    return noise - x0


def sample_euler(velocity: Velocity, x: Tensor, sigmas: Tensor, on_step: StepCallback | None = None) -> Tensor:
    """First-order solver; one evaluation a step. `x` is noise at sigmas[0]."""
    levels = sigmas.tolist()
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        v = velocity(x, sigma)
        if on_step is not None:
            on_step(i + 1, x - sigma * v)
        x = x + (sigma_next - sigma) * v
    return x


def sample_dpmpp_2m(velocity: Velocity, x: Tensor, sigmas: Tensor, on_step: StepCallback | None = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2) for alpha = 1 - sigma: second order, one
    evaluation a step, two past predictions of x0. The step out of pure noise and the one to sigma 0 are first order."""
    levels = sigmas.double()
    lam = torch.log((1 - levels) / levels).tolist()  # -inf at sigma 1, +inf at sigma 0
    levels = levels.tolist()
    x0_before: Tensor | None = None
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x0 = x - sigma * velocity(x, sigma)
        if on_step is not None:
            on_step(i + 1, x0)
        if sigma_next == 0:
            return x0
        mixed = x0
        if x0_before is not None and i >= 2:  # lam[i - 1] is finite
            ratio = (lam[i + 1] - lam[i]) / (lam[i] - lam[i - 1])
            mixed = x0 + 0.5 * ratio * (x0 - x0_before)
        x = (sigma_next / sigma) * x + ((1 - sigma_next) - (sigma_next / sigma) * (1 - sigma)) * mixed
        x0_before = x0
    return x


def solver_by_name(name: str) -> Callable[[Velocity, Tensor, Tensor, StepCallback | None], Tensor]:
    """The solver function; raises `UserError` naming the known ones."""
    solvers = {"euler": sample_euler, "dpmpp_2m": sample_dpmpp_2m}
    if name not in solvers:
        raise UserError(f"unknown solver {name!r}; choose one of {', '.join(SOLVERS)}")
    return solvers[name]
