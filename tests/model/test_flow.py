"""Schedule and solvers on an equation with a known solution."""

from __future__ import annotations

import math

import pytest
import torch
from svdp.errors import UserError
from svdp.model.flow import (
    add_noise,
    sample_dpmpp_2m,
    sample_euler,
    schedule_progress,
    shift_sigma,
    sigma_schedule,
    solver_by_name,
    velocity_target,
)

DATA_STD = 0.5


def gaussian_velocity(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Exact velocity when data is N(0, DATA_STD^2): E[noise - x0 | x]."""
    a = 1 - sigma
    var = a * a * DATA_STD**2 + sigma * sigma
    return x * (sigma - a * DATA_STD**2) / var


def error(solver, steps: int) -> float:
    """The flow maps noise x to DATA_STD * x, exactly."""
    x = torch.tensor([1.0], dtype=torch.float64)
    return abs(float(solver(gaussian_velocity, x, sigma_schedule(steps, 1.0), None)) - DATA_STD)


def order(solver) -> float:
    return math.log2(error(solver, 160) / error(solver, 320))


def test_solvers_converge_with_their_order():
    assert 0.8 < order(sample_euler) < 1.3
    assert order(sample_dpmpp_2m) > 1.7
    assert error(sample_dpmpp_2m, 20) < error(sample_euler, 20) / 2


def test_schedule_ends_and_shift():
    s = sigma_schedule(10, 3.0)
    assert s[0] == 1 and s[-1] == 0 and (s.diff() < 0).all()
    assert float(shift_sigma(torch.tensor(0.5), 3.0)) == pytest.approx(0.75)
    for i, sigma in enumerate(s.tolist()):
        assert schedule_progress(sigma, 3.0) == pytest.approx(i / 10, abs=1e-6)


def test_noise_and_velocity_are_consistent():
    x0, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    sigma = torch.tensor([0.2, 0.9])
    x = add_noise(x0, noise, sigma)
    torch.testing.assert_close(x - sigma[:, None, None] * velocity_target(x0, noise), x0)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="euler, dpmpp_2m"):
        solver_by_name("magic")
    with pytest.raises(UserError, match="at least 1 step"):
        sigma_schedule(0, 3.0)
