"""What the backend refuses, and in which words."""

from __future__ import annotations

import pytest
import torch
from svdp.errors import AdapterMismatchError, UserError

from .backend import THREE, apply, sample, text
from .conftest import FRAMES, make_signals


def test_another_family_is_refused_by_name(adapter_path):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.Flux(
        {
            "image_model": "flux", "in_channels": 16, "patch_size": 2, "out_channels": 16, "vec_in_dim": 8,
            "context_in_dim": 8, "hidden_size": 32, "mlp_ratio": 4.0, "num_heads": 2, "depth": 1,
            "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "txt_ids_dims": [], "theta": 10000, "qkv_bias": True,
            "guidance_embed": False,
        }
    )  # fmt: skip
    flux = comfy.model_patcher.ModelPatcher(comfy.model_base.Flux(config, device="cpu"), "cpu", "cpu")
    with pytest.raises(AdapterMismatchError, match="family Flux"):
        apply(flux, adapter_path)


def test_an_adapter_for_another_base_is_refused_with_both_named(model, bundled_file):
    with pytest.raises(
        AdapterMismatchError, match=r"made for: SD3 transformer.*base model is: SD3 transformer, width 128, 2 blocks"
    ):
        apply(model, bundled_file("mini_adapter.safetensors"))


def test_a_file_that_is_no_adapter_is_refused(bundled_file):
    from svdp.model.backends.comfy import load_adapter

    with pytest.raises(AdapterMismatchError, match="not an SVDP adapter"):
        load_adapter(str(bundled_file("mini_autoencoder.safetensors")), "mini_autoencoder.safetensors")


def test_a_second_adapter_is_refused(model, adapter_path):
    with pytest.raises(UserError, match="already"):
        apply(apply(model, adapter_path), adapter_path)


def test_a_model_without_adapter_is_refused(model, signals):
    from svdp.model.backends.comfy_guider import SVDPGuider

    with pytest.raises(UserError, match="Apply"):
        SVDPGuider(model, signals, THREE)


def test_latents_that_do_not_fit_are_refused(model, adapter_path, euler, sigmas):
    from svdp.model.backends.comfy_guider import SVDPGuider

    guider = SVDPGuider(apply(model, adapter_path), make_signals(FRAMES + 1), THREE)
    with pytest.raises(UserError, match=r"\(5, 16, 8, 8\)"):
        sample(guider, euler, sigmas)


def test_an_area_in_the_conditioning_is_refused(model, adapter_path, animate):
    with pytest.raises(UserError, match="masks rather than areas"):
        animate(apply(model, adapter_path), conditioning=text(area=(4, 4, 0, 0), strength=1.0))


def test_an_adapter_loads_where_layers_begin_without_weights(adapter_path, monkeypatch):
    """As under dynamic VRAM, where ComfyUI's layers get their weights only when they are loaded."""
    import comfy.memory_management
    from safetensors.torch import load_file
    from svdp.model.backends.comfy import _patcher, _read

    parts = _read(str(adapter_path), "a")
    if not hasattr(comfy.memory_management, "aimdo_enabled"):
        pytest.skip("this ComfyUI has no dynamic VRAM")
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    loaded = _patcher(parts, str(adapter_path)).model.state_dict()
    for name, tensor in load_file(adapter_path).items():
        assert torch.equal(loaded[name], tensor)
