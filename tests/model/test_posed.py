"""The posed source: it changes nothing untrained, reaches branches d and p alone, and is passed on by the copy gate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from svdp.errors import UserError
from svdp.model.adapter import COPY_PRIOR, AdapterFile, load_adapter, save_adapter
from svdp.model.config import AdapterConfig
from svdp.model.sampling import SegmentSignals, check_signals, noisy_start
from svdp.model.streams import Conditions, copied

from .conftest import FRAMES, SIDE, TINY, tiny_denoiser
from .test_streams import SIGMA, base_output

PIXELS = SIDE * 8


@pytest.fixture
def posed(conditions: Conditions) -> Conditions:
    """The usual conditions with driver and posed source as pixels; all of the posed source is known."""
    g = torch.Generator().manual_seed(5)
    pixels = torch.rand(2, 1, FRAMES, 4, PIXELS, PIXELS, generator=g)
    pixels[1, :, :, 3] = 1
    latents = torch.randn(1, FRAMES, TINY.channels, SIDE, SIDE, generator=g)
    return replace(conditions, driving_pixels=pixels[0], posed_pixels=pixels[1], posed=latents)


def test_untrained_it_changes_nothing(conditioning, noisy, posed):
    d = tiny_denoiser(trained=False, conditioning=conditioning, posed=True, aligned="pixels")
    with torch.no_grad():
        assert torch.equal(d(noisy, SIGMA, posed, branch="p"), base_output(d, noisy))


def test_untrained_the_copy_gate_gives_the_posed_source(conditioning, noisy, posed):
    d = tiny_denoiser(trained=False, conditioning=conditioning, posed=True, copy_gate=True)
    sigma = SIGMA[:, None, None, None, None]
    with torch.no_grad():
        clean = noisy - sigma * d(noisy, SIGMA, posed, branch="d")
        own = noisy - sigma * base_output(d, noisy)
    share = torch.sigmoid(torch.tensor(COPY_PRIOR))
    torch.testing.assert_close(clean, share * posed.posed + (1 - share) * own, rtol=1e-3, atol=1e-3)


def test_the_copy_gate_leaves_what_is_not_known(noisy, posed):
    d = tiny_denoiser(trained=False, posed=True, copy_gate=True)
    hidden = posed.posed_pixels.clone()
    hidden[:, :, 3] = 0
    sigma = SIGMA[:, None, None, None, None]
    with torch.no_grad():
        clean = noisy - sigma * d(noisy, SIGMA, replace(posed, posed_pixels=hidden), branch="d")
        own = noisy - sigma * base_output(d, noisy)
    share = 1 - torch.sigmoid(torch.tensor(COPY_PRIOR))
    torch.testing.assert_close(clean, share * posed.posed + (1 - share) * own, rtol=1e-3, atol=1e-3)


def test_it_reaches_branches_d_and_p_alone(conditioning, noisy, posed):
    d = tiny_denoiser(conditioning=conditioning, posed=True, copy_gate=True, aligned="pixels")
    without = replace(posed, posed_pixels=None, posed=None)
    with torch.no_grad():
        for branch, differs in (("u", False), ("s", False), ("d", True), ("p", True)):
            one, other = (d(noisy, SIGMA, c, branch=branch) for c in (posed, without))
            assert torch.equal(one, other) != differs, branch


def test_frames_of_a_clip_are_taken_with_their_own_posed_source(noisy, posed):
    d = tiny_denoiser(posed=True, copy_gate=True, aligned="pixels", video_blocks=())
    with torch.no_grad():
        streams = d.prefill(posed)
        whole = d(noisy, SIGMA, streams=streams, branch="d")
        part = d(noisy[:, 1:3], SIGMA, streams=streams.of_frames([1, 2]), branch="d")
    torch.testing.assert_close(part, whole[:, 1:3], rtol=1e-4, atol=1e-4)


def test_a_copied_velocity_leads_to_the_mixture():
    g = torch.Generator().manual_seed(0)
    v, z, posed = torch.randn(3, 2, 4, 8, 8, generator=g)
    sigma, mask = torch.tensor([0.3, 1.0]), torch.rand(2, 4, 8, 8, generator=g)
    wide = sigma[:, None, None, None]
    made = z - wide * copied(v, z, posed, mask, sigma)
    torch.testing.assert_close(made, mask * posed + (1 - mask) * (z - wide * v), rtol=1e-4, atol=1e-4)


def test_the_file_keeps_it(tmp_path):
    d = tiny_denoiser(posed=True, copy_gate=True, aligned="pixels")
    save_adapter(tmp_path / "a.safetensors", AdapterFile(d.adapter), torch.float32)
    loaded = load_adapter(tmp_path / "a.safetensors").adapter
    assert loaded.config == d.adapter.config
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in d.adapter.state_dict().items())


def test_settings_and_signals_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="copy_gate needs posed"):
        AdapterConfig(base=TINY, video_head_dim=8, copy_gate=True)
    with pytest.raises(UserError, match="aligned must be"):
        AdapterConfig(base=TINY, video_head_dim=8, aligned="tokens")  # type: ignore[arg-type]
    config = AdapterConfig(base=TINY, video_head_dim=8, driving="aligned", aligned="pixels", posed=True, copy_gate=True)
    masks = torch.zeros(1, 3, SIDE, SIDE)
    with pytest.raises(UserError, match="as pixels"):
        check_signals(config, SegmentSignals(masks))
    pixels = torch.zeros(1, 4, PIXELS, PIXELS)
    check_signals(config, SegmentSignals(masks, driving_pixels=pixels))
    with pytest.raises(UserError, match="give both, or neither"):
        check_signals(config, SegmentSignals(masks, driving_pixels=pixels, posed_pixels=pixels))


def test_sampling_may_begin_from_the_posed_source():
    noise, posed = torch.randn(2, 2, 4, 8, 8)
    assert torch.equal(noisy_start(noise, None, 1.0), noise)
    torch.testing.assert_close(noisy_start(noise, posed, 0.25), 0.75 * posed + 0.25 * noise)
    with pytest.raises(UserError, match="use start 1"):
        noisy_start(noise, None, 0.5)
