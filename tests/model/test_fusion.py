"""Four-branch fusion against the paper's formula."""

from __future__ import annotations

import pytest
import torch
from svdp.errors import UserError
from svdp.model.config import FusionConfig
from svdp.model.flow import shift_sigma
from svdp.model.fusion import BRANCHES, driving_map, fuse, fusion_coefficients, rescale_contrast


def branches() -> dict:
    g = torch.Generator().manual_seed(0)
    return {b: torch.randn(2, 4, 6, 6, generator=g) for b in BRANCHES}


def formula(v: dict, ls, ld, lp):
    return v["u"] + ls * (v["s"] - v["u"]) + ld * (v["d"] - v["s"]) + lp * (v["p"] - v["d"])


@pytest.mark.parametrize(
    ("weights", "computed"),
    [
        ((2, 2.5, 1), "usdp"),
        ((1, 1, 1), "p"),
        ((1, 2, 1), "sdp"),
        ((2, 2, 1), "udp"),
        ((2, 1.5, 1.5), "usp"),
        ((0, 0, 0), "u"),
        ((2, 2.5, 0), "usd"),
    ],
)
def test_pruned_branches_equal_the_full_formula(weights, computed):
    v, (ls, ld, lp) = branches(), weights
    c = fusion_coefficients(FusionConfig(source=ls, driving=ld, history=lp), 0.5, 3.0, has_history=True)
    assert "".join(c) == computed
    torch.testing.assert_close(fuse({b: v[b] for b in c}, c), formula(v, ls, ld, lp), atol=1e-5, rtol=1e-5)


def test_without_history_p_equals_d():
    v = branches()
    c = fusion_coefficients(FusionConfig(), 0.5, 3.0, has_history=False)
    assert "p" not in c
    torch.testing.assert_close(fuse(v, c), formula({**v, "p": v["d"]}, 2, 2.5, 1), atol=1e-5, rtol=1e-5)


def test_range_switches_a_signal_off():
    cfg = FusionConfig(driving_range=(0.0, 0.5), history=0.0)
    early, late = (float(shift_sigma(torch.tensor(1 - p), 3.0)) for p in (0.25, 0.75))
    assert fusion_coefficients(cfg, early, 3.0, True).keys() == {"u", "s", "d"}
    assert fusion_coefficients(cfg, late, 3.0, True) == {"u": -1.0, "s": 2.0}


def test_region_strength_is_a_map():
    masks = torch.zeros(2, 3, 6, 6)
    masks[:, 0, :2], masks[:, 2, 4:] = 1, 1
    assert driving_map(masks, FusionConfig()) is None
    cfg = FusionConfig(mouth=0.0, eyes=0.5)
    where = driving_map(masks, cfg)
    assert where is not None and where.shape == (2, 1, 6, 6)
    assert where[0, 0, :, 0].tolist() == [0.5, 0.5, 1.0, 1.0, 0.0, 0.0]
    v = branches()
    c = fusion_coefficients(cfg, 0.5, 3.0, True, where)
    torch.testing.assert_close(fuse(v, c), formula(v, 2, 2.5 * where, 1), atol=1e-5, rtol=1e-5)


def test_bad_range_is_refused():
    with pytest.raises(UserError, match="source_range"):
        FusionConfig(source_range=(0.8, 0.2))


def spread(x):
    return x.std((2, 3)), x.mean((2, 3))


def test_rescaling_takes_contrast_back_and_keeps_colour():
    v = branches()
    c = fusion_coefficients(FusionConfig(), 0.5, 3.0, has_history=True)
    fused = fuse(v, c)
    assert (spread(fused)[0] > 1.5 * spread(v["d"])[0]).all()  # noise added to noise
    whole, half = (rescale_contrast(fused, v, amount) for amount in (1.0, 0.5))
    torch.testing.assert_close(spread(whole)[0], spread(v["d"])[0])
    without_d = {b: v[b] for b in "usp"}
    torch.testing.assert_close(spread(rescale_contrast(fused, without_d, 1.0))[0], spread(v["p"])[0])
    for result in (whole, half):
        torch.testing.assert_close(spread(result)[1], spread(fused)[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(half, (whole + fused) / 2, atol=1e-5, rtol=1e-5)
    assert torch.equal(rescale_contrast(fused, v, 0.0), fused)


def test_rescaling_leaves_one_branch_and_flat_channels_alone():
    v = branches()
    assert torch.equal(rescale_contrast(v["p"], {"p": v["p"]}, 1.0), v["p"])
    flat = torch.full((2, 4, 6, 6), 0.25)
    torch.testing.assert_close(rescale_contrast(flat, v, 1.0), flat)


def test_bad_rescale_is_refused():
    with pytest.raises(UserError, match="rescale must be a number from 0 to 1"):
        FusionConfig(rescale=1.5)
