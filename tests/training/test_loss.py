"""The rectified-flow loss on cases with a known answer."""

from __future__ import annotations

import pytest
import torch
from svdp.model.flow import add_noise, velocity_target
from svdp.training.config import LossSettings
from svdp.training.loss import draw_sigmas, flow_loss, region_errors, region_weight_map, sigma_bin
from svdp.training.schedule import rng, stratified_normal

SHAPE = (2, 3, 4, 8, 8)  # B, F, C, h, w


@pytest.fixture
def regions() -> torch.Tensor:
    """Eyes over 8 of 64 places of the first clip (a quarter of them under the mouth too); none in the second."""
    mask = torch.zeros(2, 3, 3, 8, 8, dtype=torch.bool)
    mask[0, :, 0, 2, :] = True
    mask[0, :, 2, 2:4, :2] = True
    return mask


def test_the_right_velocity_costs_nothing_and_a_known_error_its_square(regions: torch.Tensor) -> None:
    g = rng(0)
    x0, noise = torch.randn(SHAPE, generator=g), torch.randn(SHAPE, generator=g)
    sigmas = torch.tensor([0.25, 0.5])
    x = add_noise(x0, noise, sigmas)
    target = velocity_target(x0, noise)
    torch.testing.assert_close(x[0] - 0.25 * target[0], x0[0])  # one step to sigma 0 along the target gives x0
    assert flow_loss(target, target, sigmas, region_weight_map(regions, (3.0, 1.0, 3.0)))[0] == 0
    loss, per_sample = flow_loss(target + 2.0, target, sigmas, None)
    assert loss.item() == pytest.approx(4.0)
    assert per_sample.tolist() == pytest.approx([4.0, 4.0])
    assert flow_loss(target + 2.0, target, sigmas, None, "sigma")[0].item() == pytest.approx(4 * (0.0625 + 0.25) / 2)


def test_regions_weigh_more_but_every_sample_the_same(regions: torch.Tensor) -> None:
    weight = region_weight_map(regions, (3.0, 1.0, 5.0))
    assert weight.shape == (2, 3, 1, 8, 8)
    torch.testing.assert_close(weight.mean(dim=(1, 2, 3, 4)), torch.ones(2))
    outside, eyes, both, mouth = (
        weight[0, 0, 0, 7, 7],
        weight[0, 0, 0, 2, 5],
        weight[0, 0, 0, 2, 0],
        weight[0, 0, 0, 3, 0],
    )
    assert [round((w / outside).item(), 4) for w in (eyes, both, mouth)] == [3.0, 5.0, 5.0]
    assert torch.equal(weight[1], torch.ones(3, 1, 8, 8))


def test_an_error_in_the_eyes_costs_their_weight(regions: torch.Tensor) -> None:
    target, wrong_eyes, wrong_corner = torch.zeros(SHAPE), torch.zeros(SHAPE), torch.zeros(SHAPE)
    wrong_eyes[0, 0, :, 2, 5], wrong_corner[0, 0, :, 7, 7] = 1.0, 1.0
    weight = region_weight_map(regions, (3.0, 1.0, 5.0))
    sigmas = torch.full((2,), 0.5)
    eyes, corner = (flow_loss(v, target, sigmas, weight)[0] for v in (wrong_eyes, wrong_corner))
    assert (eyes / corner).item() == pytest.approx(3.0)


def test_errors_inside_and_outside_the_regions(regions: torch.Tensor) -> None:
    target = torch.zeros(SHAPE)
    velocity = torch.where(regions.any(2, keepdim=True), 3.0, 1.0).expand(SHAPE)
    inside, outside = region_errors(velocity, target, regions)
    assert (inside.item(), outside.item()) == pytest.approx((9.0, 1.0))


def test_noise_levels_of_a_batch_cover_the_logit_normal_distribution() -> None:
    count = 1000
    sigmas = draw_sigmas(count, LossSettings(shift=3.0, mean=0.4, std=0.8), rng(1)).sort().values
    normal = torch.special.ndtri((torch.arange(count) + 0.5) / count)
    t = torch.sigmoid(normal * 0.8 + 0.4)
    expected = 3 * t / (1 + 2 * t)
    torch.testing.assert_close(sigmas[5:-5], expected[5:-5], atol=0.02, rtol=0)  # the tails are wide
    assert torch.equal(sigma_bin(torch.tensor([0.0, 0.19, 0.2, 0.99, 1.0])), torch.tensor([0, 0, 1, 4, 4]))


def test_each_sample_of_a_small_batch_is_normal_by_itself() -> None:
    firsts = torch.stack([stratified_normal(4, rng(2, i)) for i in range(2000)])
    assert torch.all((firsts < 0).sum(1) == 2)  # half of the strata lie below the median, in every batch
    assert firsts[:, 0].mean().abs() < 0.08  # 3.5 standard errors
    assert abs(firsts[:, 0].std().item() - 1) < 0.06
