"""The same base, adapter, inputs and seed give the same latents through ComfyUI and through the diffusers backend."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from svdp.model.autoencoder import SD3_SCALE, SD3_SHIFT
from svdp.model.config import FusionConfig, SegmentConfig

from .conftest import FRAMES, HISTORY, SEED, load_model, make_signals, write_adapter

TOLERANCE = 1e-4  # of the signal's range
FULL = FusionConfig(source=2.0, driving=2.5, history=1.3)  # every branch has a coefficient


def through_diffusers(base, adapter, signals, segments, fusion, steps, shift, history_noise=0.0, start=1.0):
    from svdp.model.adapter import load_adapter
    from svdp.model.backends.diffusers import Denoiser, load_transformer, merge_lora
    from svdp.model.sampling import SamplingConfig, generate
    from svdp.model.segments import plan_segments

    file = load_adapter(adapter)
    denoiser = Denoiser(load_transformer(base), file.adapter).train(False)
    merge_lora(denoiser.transformer, file.lora)

    def scaled(raw):
        return (raw - SD3_SHIFT) * SD3_SCALE

    results = generate(
        denoiser,
        scaled(signals.source)[0],
        lambda s: of_segment(signals, s.start, s.stop, scaled),
        plan_segments(signals.num_frames, segments),
        SamplingConfig(steps=steps, shift=shift, seed=SEED, fusion=fusion, history_noise=history_noise, start=start),
    )
    parts = list(results)
    branches = tuple(p.branches for p in parts)
    return torch.cat([p.latents for p in parts]) / SD3_SCALE + SD3_SHIFT, branches


def of_segment(signals, start, stop, scaled):
    """All that the signals hold, as the diffusers backend takes it."""
    from svdp.model.sampling import SegmentSignals

    def part(name, change):
        whole = getattr(signals, name)
        return None if whole is None else change(whole[start:stop])

    latents = {name: part(name, scaled) for name in ("driving", "posed")}
    pixels = {name: part(name, lambda t: t.float() / 255) for name in ("driving_pixels", "posed_pixels")}
    return SegmentSignals(signals.masks[start:stop], **latents, **pixels)


def through_comfy(base, adapter, signals, segments, fusion, steps, shift, noise, sampler, history_noise=0.0, start=1.0):
    from svdp.model.backends.comfy import apply_adapter, load_adapter
    from svdp.model.backends.comfy_guider import SVDPGuider
    from svdp.model.backends.comfy_sampling import sample_video
    from svdp.model.flow import sigma_schedule

    model = apply_adapter(load_model(base), load_adapter(str(adapter), adapter.name), shift=shift)
    guider = SVDPGuider(model, signals, fusion)
    result = sample_video(guider, noise, sampler, sigma_schedule(steps, shift), segments, history_noise, start=start)
    return result.latents, tuple(r.branches for r in result.reports)


def assert_equal_video(ours, theirs):
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs().max() / (theirs.max() - theirs.min())
    assert difference <= TOLERANCE, f"difference {difference:.2e} of the range"


@pytest.mark.parametrize("conditioning", ["cached", "joint"])
@pytest.mark.parametrize("gate", ["learned", "open"])
def test_both_backends_make_the_same_video(conditioning, gate, base_path, tmp_path, random_noise, euler):
    adapter = write_adapter(tmp_path / "a.safetensors", conditioning=conditioning, gate=gate, lora=True)
    video = make_signals(2 * FRAMES + 1)  # three segments, the last one short
    segments = SegmentConfig(length=FRAMES, num_history=HISTORY)
    theirs, branches = through_diffusers(base_path, adapter, video, segments, FULL, 3, 3.0, 0.1)
    ours, ours_branches = through_comfy(
        base_path, adapter, video, segments, FULL, 3, 3.0, random_noise, euler, history_noise=0.1
    )
    assert branches[1] and set(branches[1]) == set(ours_branches[1]) == {"u", "s", "d", "p"}
    assert_equal_video(ours, theirs)


@pytest.mark.parametrize(
    ("driving", "source"), [("tokens", "tokens"), ("aligned", "tokens"), ("both", "both"), ("tokens", "both")]
)
def test_each_form_of_driving_and_source_is_the_same(driving, source, base_path, tmp_path, random_noise, euler):
    adapter = write_adapter(tmp_path / "a.safetensors", driving=driving, source=source)
    fusion = replace(FULL, eyes=0.4, mouth=1.5, source_range=(0.0, 0.6), driving_range=(0.2, 1.0), rescale=0.7)
    segments, video = SegmentConfig(length=FRAMES, num_history=HISTORY), make_signals(FRAMES + 2)
    theirs, _ = through_diffusers(base_path, adapter, video, segments, fusion, 3, 2.0)
    ours, _ = through_comfy(base_path, adapter, video, segments, fusion, 3, 2.0, random_noise, euler)
    assert_equal_video(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ({"driving": "aligned", "aligned": "pixels", "copy_gate": True, "source": "both"}, 1.0),
        ({"driving": "aligned", "aligned": "pixels", "copy_gate": True, "source": "both"}, 0.6),
        ({"conditioning": "joint", "copy_gate": True}, 1.0),
        ({"copy_gate": False}, 0.6),
    ],
)
def test_a_posed_source_and_the_copy_gate_are_the_same(settings, start, base_path, tmp_path, random_noise, euler):
    adapter = write_adapter(tmp_path / "a.safetensors", posed=True, **settings)
    segments, video = SegmentConfig(length=FRAMES, num_history=HISTORY), make_signals(FRAMES + 2, posed=True)
    theirs, _ = through_diffusers(base_path, adapter, video, segments, FULL, 2, 3.0, start=start)
    ours, branches = through_comfy(base_path, adapter, video, segments, FULL, 2, 3.0, random_noise, euler, start=start)
    assert set(branches[1]) == {"u", "s", "d", "p"}
    assert_equal_video(ours, theirs)
    without = replace(video, posed=None, posed_pixels=None)
    if start == 1.0:
        other, _ = through_comfy(base_path, adapter, without, segments, FULL, 2, 3.0, random_noise, euler)
        assert (other - ours).abs().max() > 0.1, "the posed source counts, and sampling works without it"


def test_the_bundled_model_is_the_same(bundled_file, random_noise, euler):
    base, adapter = bundled_file("mini_base.safetensors"), bundled_file("mini_adapter.safetensors")
    video, segments = make_signals(6, side=16), SegmentConfig(length=4, num_history=3)
    theirs, _ = through_diffusers(base, adapter, video, segments, FULL, 2, 1.5)
    ours, _ = through_comfy(base, adapter, video, segments, FULL, 2, 1.5, random_noise, euler)
    assert_equal_video(ours, theirs)


def test_the_bundled_autoencoder_gives_the_latents_that_the_model_expects(bundled_file):
    """ComfyUI's VAE and its latent scaling together are our own encoder; and back."""
    import comfy.latent_formats
    import comfy.sd
    import comfy.utils
    from svdp.model.autoencoder import TinyAutoencoder

    path = bundled_file("mini_autoencoder.safetensors")
    vae, ours = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path))), TinyAutoencoder.load(path)
    pictures = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    latents = comfy.latent_formats.SD3().process_in(vae.encode(pictures))
    with torch.no_grad():
        assert_equal_video(latents, ours.encode(pictures.movedim(-1, 1)))
        decoded = vae.decode(comfy.latent_formats.SD3().process_out(latents))
        assert_equal_video(decoded.movedim(-1, 1), ours.decode(latents))
