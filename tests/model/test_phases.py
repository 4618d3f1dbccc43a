"""The source at several shifts of less than a latent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from svdp.errors import UserError
from svdp.model.fusion import BRANCHES
from svdp.model.phases import phase_shifts, shifted_pictures, stack_phases, take_phases
from svdp.model.positions import crop_positions
from svdp.model.streams import Conditions

from .conftest import TINY, tiny_denoiser

SIGMA = torch.tensor([0.7])


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_pictures_move_by_half_a_latent_and_repeat_their_border(make):
    picture = np.arange(16 * 24).reshape(1, 16, 24, 1)
    moved = shifted_pictures(make(picture), 2)
    assert phase_shifts(2) == [(0, 0), (0, 0.5), (0.5, 0), (0.5, 0.5)] and len(moved) == 4
    for (down, right), found in zip(phase_shifts(2), moved, strict=True):
        dy, dx = int(8 * down), int(8 * right)
        expected = np.pad(picture, ((0, 0), (0, dy), (0, dx), (0, 0)), "edge")[:, dy:, dx:]
        np.testing.assert_array_equal(np.asarray(found), expected)


def test_an_adapter_takes_the_phases_it_wants():
    latents = torch.randn(16, 4, 8, 8)  # density 4
    held = stack_phases(latents)[None]
    assert torch.equal(take_phases(held, 4, 1)[0], latents[:1])
    assert torch.equal(take_phases(held, 4, 2)[0], latents[[0, 2, 8, 10]])
    assert torch.equal(take_phases(held, 4, 4)[0], latents)
    with pytest.raises(UserError, match="encoded at 4 shifts, but it is encoded at 1"):
        take_phases(held[:, :4], 4, 2)


def test_places_between_those_of_the_table_are_their_mean():
    table = torch.randn(16, 16, 6)
    whole = crop_positions(table, 4, 4, "left").unflatten(1, (4, 4))[0]
    between = crop_positions(table, 4, 4, "left", (0.5, 0.0)).unflatten(1, (4, 4))[0]
    torch.testing.assert_close(between[:3], (whole[:3] + whole[1:]) / 2)
    corner = crop_positions(table, 4, 4, "left", (0.5, 0.25)).unflatten(1, (4, 4))[0]
    torch.testing.assert_close(corner[:, :3], 0.75 * between[:, :3] + 0.25 * between[:, 1:])
    torch.testing.assert_close(crop_positions(table, 16, 4, "right", (0.5, 0.5))[0, -1, 0], table[-1, 13:15, 0].mean())


@pytest.fixture
def dense(conditions: Conditions) -> Conditions:
    """The conditions with a source of four phases, the first of which is theirs."""
    others = torch.randn(1, 3 * TINY.channels, *conditions.source.shape[2:], generator=torch.Generator().manual_seed(5))
    return replace(conditions, source=torch.cat([conditions.source, others], 1))


def test_phases_that_are_not_wanted_change_nothing(conditioning, noisy, conditions, dense):
    d = tiny_denoiser(conditioning=conditioning, source="both")
    with torch.no_grad():
        for branch in BRANCHES:
            plain = d(noisy, SIGMA, conditions, branch=branch)
            assert torch.equal(plain, d(noisy, SIGMA, dense, branch=branch))


@pytest.mark.parametrize("source", ["tokens", "both"])
def test_every_phase_counts_where_the_source_does(conditioning, source, noisy, dense):
    d = tiny_denoiser(conditioning=conditioning, source=source, source_density=2)
    with torch.no_grad():
        before = {b: d(noisy, SIGMA, dense, branch=b) for b in BRANCHES}
        for phase in range(4):
            changed = dense.source.clone()
            changed[:, phase * TINY.channels : (phase + 1) * TINY.channels] += 1
            after = {b: d(noisy, SIGMA, replace(dense, source=changed), branch=b) for b in BRANCHES}
            assert torch.equal(before["u"], after["u"])
            for branch in ("s", "d", "p"):
                assert (before[branch] - after[branch]).abs().max() > 1e-3, (phase, branch)


def test_the_untrained_dense_adapter_gives_the_base_bit_for_bit(conditioning, noisy, dense):
    d = tiny_denoiser(trained=False, conditioning=conditioning, source="both", source_density=2)
    with torch.no_grad():
        base = d(noisy, SIGMA, dense, branch="u")
        for branch in ("s", "d", "p"):
            assert torch.equal(base, d(noisy, SIGMA, dense, branch=branch))


def test_streams_of_all_phases_are_reused(conditioning, noisy, dense):
    d = tiny_denoiser(conditioning=conditioning, source="both", source_density=2)
    with torch.no_grad():
        streams = d.prefill(dense, d.prefill(Conditions(source=dense.source)))
        for branch in BRANCHES:
            again = d(noisy, SIGMA, dense, branch=branch)
            torch.testing.assert_close(d(noisy, SIGMA, streams=streams, branch=branch), again, atol=1e-5, rtol=0)
