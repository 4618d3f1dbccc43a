"""The nodes around the model, as ComfyUI runs them, with the bundled model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from svdp.errors import UserError

SIDE, FRAMES = 64, 5


@pytest.fixture(scope="module")
def bundled(comfy_on_path, bundled_file) -> Any:
    """MODEL and VAE of the bundled checkpoint, by ComfyUI's own loaders."""
    import comfy.sd
    import comfy.utils
    from svdp.nodes.folders import register_folders

    register_folders()
    model = comfy.sd.load_diffusion_model(str(bundled_file("mini_base.safetensors")))
    return model, comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(bundled_file("mini_autoencoder.safetensors"))))


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A portrait, masked driving frames, and the mask of their only region."""
    g = torch.Generator().manual_seed(0)
    mask = torch.zeros(FRAMES, SIDE, SIDE)
    mask[:, 16:32, 16:48] = 1
    driver = torch.rand(FRAMES, SIDE, SIDE, 3, generator=g) * 0.9 + 0.1
    return torch.rand(1, SIDE, SIDE, 3, generator=g), driver * mask[..., None], mask


@pytest.fixture(scope="module")
def chain(bundled, pictures) -> dict[str, Any]:
    """What comes out of each node up to the guider."""
    from svdp.nodes import model as nodes

    model, vae = bundled
    source, masked, mask = pictures
    adapter, info = nodes.SVDPLoadAdapter.execute("mini_adapter.safetensors").args
    (applied,) = nodes.SVDPApply.execute(model, adapter, 1.0, 0.0).args
    signals, empty = nodes.SVDPEncodeSignals.execute(vae, source, masked, eyes=mask).args
    (guider,) = nodes.SVDPSignalFusion.execute(applied, signals, -1.0, 2.0, -1.0, 0, 1, 0, 1, 0, 1, 1, 1, 1).args
    return {"info": info, "model": applied, "signals": signals, "empty": empty, "guider": guider}


@pytest.fixture
def how(chain) -> dict[str, Any]:
    """Noise, sampler and sigmas from ComfyUI's own nodes."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, RandomNoise

    return {
        "noise": RandomNoise.execute(7).args[0],
        "sampler": KSamplerSelect.execute("euler").args[0],
        "sigmas": BasicScheduler.execute(chain["model"], "simple", 2, 1.0).args[0],
    }


@pytest.fixture(scope="module")
def own(bundled_file) -> dict[str, Any]:
    """How the bundled adapter says to sample."""
    from svdp.model.adapter import load_adapter

    return load_adapter(bundled_file("mini_adapter.safetensors")).info["sampling"]


def test_the_adapter_says_what_it_is(chain, own):
    assert "Apache-2.0" in chain["info"] and "SD3 transformer, width" in chain["info"]
    assert f"shift {own['shift']}" in chain["info"] and f"driving {own['fusion']['driving']:g}" in chain["info"]


def test_the_bundled_adapter_is_in_the_list(bundled):
    from svdp.nodes.model import SVDPLoadAdapter

    options = SVDPLoadAdapter.define_schema().inputs[0].options
    assert "mini_adapter.safetensors" in options
    assert not [o for o in options if "base" in o or "autoencoder" in o]


def test_open_weights_and_shift_are_the_adapters_own(chain, own):
    fusion = chain["guider"].fusion
    assert (fusion.source, fusion.driving, fusion.history) == (own["fusion"]["source"], 2.0, own["fusion"]["history"])
    assert fusion.rescale == own["fusion"]["rescale"]
    assert chain["model"].get_model_object("model_sampling").shift == own["shift"]


def test_a_chosen_rescale_stands_above_the_adapters_own(chain):
    from svdp.nodes.model import SVDPSignalFusion

    weights = (-1.0, -1.0, -1.0, 0, 1, 0, 1, 0, 1, 1, 1, 1)
    (guider,) = SVDPSignalFusion.execute(chain["model"], chain["signals"], *weights, rescale=0.0).args
    assert guider.fusion.rescale == 0


def test_signals_are_latents_with_their_regions(chain):
    signals = chain["signals"]
    assert signals.driving_pixels.shape == (FRAMES, 4, SIDE, SIDE) and signals.source.shape == (1, 16, 8, 8)
    assert signals.masks.shape == (FRAMES, 3, 8, 8)
    assert signals.masks[:, 0, 2:4, 2:6].eq(1).all() and signals.masks[:, 1:].eq(0).all()
    assert chain["empty"]["samples"].shape == (FRAMES, 16, 8, 8)


def test_a_posed_source_is_kept_and_encoded_when_it_is_asked_for(bundled, pictures):
    from dataclasses import replace

    from svdp.model.config import AdapterConfig, BaseArchitecture
    from svdp.nodes.model import SVDPEncodeSignals

    source, masked, mask = pictures
    posed = masked.flip(2)
    signals = SVDPEncodeSignals.execute(bundled[1], source, masked, mask=mask, posed=posed, known=mask[:1]).args[0]
    assert signals.driving is None and signals.posed is None and signals.posed_pixels.dtype == torch.uint8
    assert torch.equal(signals.driving_pixels[:, 3], (mask * 255).byte())
    assert torch.equal(signals.posed_pixels[:, 3], (mask[:1] * 255).byte().expand(FRAMES, -1, -1))
    config = AdapterConfig(base=BaseArchitecture(width=128, depth=1, heads=1), posed=True, copy_gate=True)
    whole = signals.encoded(config)
    assert whole.driving.shape == whole.posed.shape == (FRAMES, 16, 8, 8)
    torch.testing.assert_close(whole.posed, bundled[1].encode(posed), atol=0.02, rtol=0.02)
    assert signals.encoded(config).posed is whole.posed, "a second run does not encode again"
    pixels = signals.encoded(replace(config, driving="aligned", aligned="pixels"))
    assert pixels.driving is None and pixels.posed is not None
    assert signals.encoded(replace(config, posed=False, copy_gate=False)).posed is None
    everywhere = SVDPEncodeSignals.execute(bundled[1], source, masked, posed=posed).args[0]
    assert everywhere.posed_pixels[:, 3].eq(255).all()
    with pytest.raises(UserError, match="5 driving frames, but 2 posed"):
        SVDPEncodeSignals.execute(bundled[1], source, masked, posed=posed[:2])
    with pytest.raises(UserError, match="one size to both"):
        SVDPEncodeSignals.execute(bundled[1], source, masked, posed=posed[:, :32])


def test_what_is_not_black_counts_as_the_mask(bundled, pictures):
    from svdp.nodes.model import SVDPEncodeSignals

    source, masked, mask = pictures
    by_itself = SVDPEncodeSignals.execute(bundled[1], source, masked).args[0]
    given = SVDPEncodeSignals.execute(bundled[1], source, masked, mask=mask).args[0]
    assert torch.equal(by_itself.masks, given.masks)
    assert by_itself.masks.sum() == 3 * FRAMES * 2 * 4


def test_the_segmented_sampler_makes_a_video(chain, how, bundled):
    from svdp.nodes.model import SVDPSegmentedSampler

    output = SVDPSegmentedSampler.execute(how["noise"], chain["guider"], how["sampler"], how["sigmas"], 3, 2, -1.0)
    latent, report = output.args
    assert latent["samples"].shape == (FRAMES, 16, 8, 8)
    assert "2 segments" in report
    assert bundled[1].decode(latent["samples"]).shape == (FRAMES, SIDE, SIDE, 3)


def test_one_segment_is_the_same_in_the_core_sampler(chain, how):
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
    from svdp.nodes.model import SVDPSegmentedSampler

    class NoiseOfFrames:  # the core sampler draws its noise in another way
        seed = 7

        def generate_noise(self, latent: dict[str, Any]) -> torch.Tensor:
            from svdp.model.segments import frame_noise

            return frame_noise(range(FRAMES), (16, 8, 8), 7)

    core = SamplerCustomAdvanced.execute(
        NoiseOfFrames(), chain["guider"], how["sampler"], how["sigmas"], chain["empty"]
    ).args[0]
    ours = SVDPSegmentedSampler.execute(how["noise"], chain["guider"], how["sampler"], how["sigmas"], 0, -1, -1.0)
    torch.testing.assert_close(ours.args[0]["samples"], core["samples"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, m: (s[:, :32], m), "cut both with Face Crop"),
        (lambda s, m: (s[:, :40, :40], m[:, :40, :40]), "multiples of 16"),
        (lambda s, m: (s.repeat(2, 1, 1, 1), m), "one picture, got 2"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(change, message, bundled, pictures):
    from svdp.nodes.model import SVDPEncodeSignals

    source, masked = change(*pictures[:2])
    with pytest.raises(UserError, match=message):
        SVDPEncodeSignals.execute(bundled[1], source, masked)


def test_masks_of_another_length_are_refused(bundled, pictures):
    from svdp.nodes.model import SVDPEncodeSignals

    source, masked, mask = pictures
    with pytest.raises(UserError, match="5 driving frames, but 2 masks of the mouth"):
        SVDPEncodeSignals.execute(bundled[1], source, masked, mouth=mask[:2])


def test_a_vae_of_another_model_is_refused(pictures):
    from svdp.nodes.model import SVDPEncodeSignals

    class OfSD15:
        def encode(self, pictures: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(pictures), 4, SIDE // 8, SIDE // 8)

    with pytest.raises(UserError, match=r"\(4, 8, 8\).*bundled small one"):
        SVDPEncodeSignals.execute(OfSD15(), *pictures[:2])


def test_own_and_chosen_numbers_are_those_of_the_first_form(chain, how, own, tmp_path, monkeypatch):
    """What -1 and 0 said in 0.1 is a choice now, and gives the same."""
    import folder_paths
    from svdp.nodes.model import SVDPSegmentedSampler
    from svdp.nodes.sampling import SVDPFusion, SVDPSampler

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    ranges = (0, 1, 0, 1, 0, 1, 1, 1, 1)
    (open_,) = SVDPFusion.execute(chain["model"], chain["signals"], {"weights": "adapter's own"}, *ranges).args
    assert open_.fusion.driving == own["fusion"]["driving"] and open_.fusion.rescale == own["fusion"]["rescale"]
    weights = {"weights": "chosen", **own["fusion"], "driving": 2.0}
    (guider,) = SVDPFusion.execute(chain["model"], chain["signals"], weights, *ranges).args
    assert guider.fusion == chain["guider"].fusion
    segments = {"segments": "chosen", "segment_length": 3, "history": 2, "history_noise": 0.0, "start": 1.0}
    now = SVDPSampler.execute(how["noise"], guider, how["sampler"], how["sigmas"], segments, "a b").args
    then = SVDPSegmentedSampler.execute(
        how["noise"], chain["guider"], how["sampler"], how["sigmas"], 3, 2, 0.0, start=1.0
    ).args
    assert torch.equal(now[0]["samples"], then[0]["samples"])
    again = SVDPSampler.execute(how["noise"], guider, how["sampler"], how["sigmas"], segments, "a b").args
    assert "kept from an earlier run" in again[1] and torch.equal(now[0]["samples"], again[0]["samples"])
    assert (tmp_path / "svdp" / "a b").is_dir()


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "C:x", "con", "COM1.old", " x", "x.", "a" * 81, "a\nb", ".."])
def test_names_that_are_no_names_are_refused(name):
    from svdp.nodes.folders import kept_folder
    from svdp.nodes.sampling import SVDPSampler
    from svdp.nodes.tracks import SVDPSaveTrack

    assert SVDPSampler.validate_inputs(name) is not True and SVDPSaveTrack.validate_inputs(name) is not True
    with pytest.raises(UserError):
        kept_folder(name)


def test_a_saved_track_is_in_the_list_and_comes_back(tmp_path, monkeypatch, bundled, pictures):
    import folder_paths
    from svdp.nodes.examples import SVDPExampleMedia
    from svdp.nodes.signals import SVDPFaceTrack
    from svdp.nodes.tracks import SVDPLoadTrack, SVDPSaveTrack

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    portrait = SVDPExampleMedia.execute("fair hair", "woman talking").args[0]
    track = SVDPFaceTrack.execute(portrait, 25.0, "largest", 0, 1.0, 1).args[0]
    SVDPSaveTrack.execute(track, "Clip äöü \u4eba")
    assert SVDPLoadTrack.define_schema().inputs[0].options == ["Clip äöü \u4eba"]
    again, report = SVDPLoadTrack.execute("Clip äöü \u4eba").args
    assert (again.landmarks == track.landmarks).all() and "the face seen in 1" in report


def test_the_bundled_model_computes_as_this_machine_computes_best(comfy_on_path, bundled_file):
    import comfy.model_management as management
    import comfy.sd
    import comfy.utils
    from svdp.model.backends import comfy_vae
    from svdp.nodes.examples import SVDPBundledModel

    model, adapter, vae = SVDPBundledModel.execute().args
    wanted = comfy_vae.own_dtype(management.get_torch_device())
    assert model.object_patches.get("manual_cast_dtype") == wanted
    assert vae.vae_dtype == (wanted or torch.float32) and adapter.name == "mini_adapter.safetensors"
    assert SVDPBundledModel.execute().args[0] is model, "loaded once"
    path = bundled_file("mini_autoencoder.safetensors")
    core = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)))
    latents = core.encode(torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0)))

    def same(other: Any, far: float) -> None:
        assert float((other.decode(latents) - core.decode(latents)).detach().abs().mean()) < far
        assert (
            float((other.encode(core.decode(latents)) - core.encode(core.decode(latents))).detach().abs().mean())
            < 4 * far
        )

    same(vae, 0.01)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(comfy_vae, "own_dtype", lambda device: None)
        quick = comfy_vae.load_tiny_vae(path)
    same(quick, 1e-5)
    count = [sum(isinstance(m, torch.nn.ReLU) for m in v.first_stage_model.taesd_decoder) for v in (core, quick)]
    assert count[1] > count[0], "blocks of zeros are not computed"


def test_a_shift_that_has_no_effect_is_told(comfy_on_path, caplog):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3
    from svdp.nodes.examples import SVDPBundledModel
    from svdp.nodes.model import SVDPApply

    model, adapter, _ = SVDPBundledModel.execute().args
    SVDPApply.execute(model, adapter, 1.0, 2.0)
    assert "no effect" not in caplog.text
    (shifted,) = ModelSamplingSD3().patch(model, 5.0)
    SVDPApply.execute(shifted, adapter, 1.0, 2.0)
    assert "another node before Apply Adapter has no effect" in caplog.text
