"""Kept tokens and positional crops."""

from __future__ import annotations

import pytest
import torch
from svdp.errors import UserError
from svdp.model.positions import crop_positions
from svdp.model.tokens import gather_tokens, patchify, select_tokens, token_map, token_mask


def test_every_touched_token_is_kept_and_k_is_constant():
    mask = torch.rand(5, 64, generator=torch.Generator().manual_seed(0)) > 0.85
    index = select_tokens(mask, 8)
    assert index.shape == (5, -(-int(mask.sum(1).max()) // 8) * 8)
    for f in range(5):
        assert set(mask[f].nonzero().flatten().tolist()) <= set(index[f].tolist())
        assert index[f].tolist() == sorted(set(index[f].tolist()))


def test_fill_is_nearest_to_the_region():
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, 0] = True  # corner of a 4 x 4 picture
    mask[1, :3] = True
    assert select_tokens(mask, 3).tolist() == [[0, 1, 4], [0, 1, 2]]


def test_no_region_keeps_one_group_and_wide_pictures_work():
    assert select_tokens(torch.zeros(2, 16, dtype=torch.bool), 4).shape == (2, 4)
    mask = torch.zeros(1, 8, dtype=torch.bool)
    mask[0, 0] = True
    assert select_tokens(mask, 3, width=4).tolist() == [[0, 1, 4]]


def test_masks_and_maps_at_token_size():
    masks = torch.zeros(1, 3, 4, 4)
    masks[0, 2, 0, 3] = 1
    assert token_mask(masks, 2)[0].tolist() == [False, True, False, False]
    assert token_map(masks[:, 2], 2)[0, :, 0].tolist() == [0, 0.25, 0, 0]


def test_patches_match_the_base_embedding(noisy):
    from .conftest import tiny_denoiser

    backend = tiny_denoiser().backend
    proj = backend.transformer.pos_embed.proj
    flat = patchify(noisy[0], 2) @ proj.weight.flatten(1).T + proj.bias
    torch.testing.assert_close(flat, backend.embed(noisy[0]), atol=1e-5, rtol=1e-5)


def test_gather():
    tokens = torch.arange(8.0).reshape(2, 4, 1)
    assert gather_tokens(tokens, torch.tensor([[0, 3], [1, 2]]))[..., 0].tolist() == [[0, 3], [5, 6]]


def test_crops_never_overlap_and_centre_is_the_bases_own():
    table = torch.arange(16 * 16).reshape(16, 16, 1)
    crops = {p: set(crop_positions(table, 4, 4, p).flatten().tolist()) for p in ("centre", "left", "right")}
    assert all(len(c) == 16 for c in crops.values())
    assert not crops["centre"] & crops["left"] and not crops["centre"] & crops["right"]
    assert not crops["left"] & crops["right"]
    assert torch.equal(crop_positions(table, 4, 4), table[6:10, 6:10].reshape(1, 16, 1))


def test_odd_width_stays_inside():
    table = torch.arange(15 * 15).reshape(15, 15, 1)
    for place in ("left", "right"):
        assert crop_positions(table, 5, 5, place).shape == (1, 25, 1)


def test_too_small_a_table_names_both_numbers():
    with pytest.raises(UserError, match=r"18 patches wide.*has 16"):
        crop_positions(torch.zeros(16, 16, 1), 6, 6)
