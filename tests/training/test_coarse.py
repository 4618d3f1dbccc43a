"""Stages on coarse latents: places keep their coordinates, weights fit the fine latents afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from svdp.errors import UserError
from svdp.model.adapter import Adapter
from svdp.model.config import AdapterConfig, BaseArchitecture
from svdp.model.hosts.diffusers import Denoiser, build_transformer
from svdp.model.positions import crop_positions
from svdp.training.coarse import coarse_places, coarsen, require_coarse
from svdp.training.config import parse_config
from svdp.training.dataset import LatentClips
from svdp.training.loop import train
from svdp.training.schedule import rng
from svdp.training.shards import load_shards

from .conftest import tiny_table

BASE = BaseArchitecture(width=32, depth=1, heads=2, channels=4, patch=1, table_size=24, context_dim=8, pooled_dim=8)


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    return Denoiser(build_transformer(BASE), Adapter(AdapterConfig(base=BASE, video_head_dim=8)))


@pytest.mark.parametrize("place", ["centre", "left", "right"])
def test_a_coarse_place_has_the_mean_position_of_those_it_covers(denoiser, place):
    fine = crop_positions(denoiser.host.position_table(), 8, 8, place).unflatten(1, (4, 2, 4, 2))
    with coarse_places(denoiser, 2):
        coarse = crop_positions(denoiser.host.position_table(), 4, 4, place)
        base_own = denoiser.transformer.pos_embed.cropped_pos_embed(4, 4)
    torch.testing.assert_close(coarse, fine.mean((2, 4)).flatten(1, 2))
    if place == "centre":
        torch.testing.assert_close(base_own, coarse)


def test_the_table_is_back_even_after_an_error(denoiser):
    before = denoiser.transformer.pos_embed.pos_embed
    with pytest.raises(ZeroDivisionError), coarse_places(denoiser, 2):
        1 / 0  # noqa: B018
    assert denoiser.transformer.pos_embed.pos_embed is before
    assert denoiser.host.architecture == BASE


def test_latents_are_averaged_and_regions_cover_what_they_touch(shards: Path):
    clips = LatentClips.from_arrays(load_shards(sorted((shards / "train").glob("*.tar"))))
    fine = clips.sample([rng(0, i) for i in range(3)], 4, 2)
    coarse = coarsen(fine, 2)
    for name in ("target", "source", "driving", "history"):
        whole, small = getattr(fine, name), getattr(coarse, name)
        torch.testing.assert_close(small[..., 1, 2], whole[..., 2:4, 4:6].mean((-2, -1)))
        assert small.shape[-2:] == (4, 4) and small.shape[:-2] == whole.shape[:-2]
    assert torch.equal(coarse.regions[..., 1, 2], fine.regions[..., 2:4, 4:6].flatten(-2).any(-1))
    assert coarsen(fine, 1) is fine


def test_a_run_that_starts_coarse_leaves_weights_for_fine_latents(shards: Path, tmp_path: Path):
    stages = tiny_table(shards)["stage"]
    config = parse_config(tiny_table(shards, stage=[{**stages[0], "coarse": 2}, stages[1]]))
    result = train(config, tmp_path / "run")
    assert result.finished
    table = load_file(result.weights / "base.safetensors")["model.diffusion_model.pos_embed"]
    assert table.shape[1] == 16**2


def test_factors_that_do_not_fit_are_refused(denoiser):
    require_coarse(8, denoiser, 2)
    with pytest.raises(UserError, match="coarse = 3 does not divide latents of 8"):
        require_coarse(8, denoiser, 3)
    with pytest.raises(UserError, match="positional table of 24"):
        require_coarse(12, denoiser, 4)
