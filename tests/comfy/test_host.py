"""An adapter on a MODEL: what it may not change, and life beside other nodes."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from svdp.errors import AdapterMismatchError, UserError
from svdp.model.config import FusionConfig
from torch import Tensor

from .conftest import FRAMES, SEED, lora_deltas, make_signals, save_tensors, write_adapter

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
PLAIN = FusionConfig(source=1.0, driving=1.0, history=1.0)  # branch d alone, with coefficient 1
THREE = FusionConfig(source=2.0, driving=2.5)  # u, s and d


def apply(model: Any, path: Any, strength: float = 1.0) -> Any:
    from svdp.model.hosts.comfy import apply_adapter, load_adapter

    return apply_adapter(model, load_adapter(str(path), path.name), strength)


def text(seed: int = 5, **extra: Any) -> list[Any]:
    """CONDITIONING as a text encoder gives it."""
    g = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 5, 24, generator=g), {"pooled_output": torch.randn(1, 16, generator=g), **extra}]]


def noise() -> Tensor:
    from svdp.model.segments import frame_noise

    return frame_noise(range(FRAMES), (16, 8, 8), SEED)


def sample(guider: Any, sampler: Any, sigmas: Tensor, callback: Any = None) -> Tensor:
    z = noise()
    return guider.sample(z, torch.zeros_like(z), sampler, sigmas, callback=callback, disable_pbar=True, seed=SEED)


@pytest.fixture
def animate(signals, euler, sigmas):
    """Result of our guider on a MODEL."""
    from svdp.model.hosts.comfy_guider import SVDPGuider

    def run(model: Any, fusion: FusionConfig = THREE, conditioning: Any = None) -> Tensor:
        return sample(SVDPGuider(model, signals, fusion, conditioning), euler, sigmas)

    return run


@pytest.fixture
def plain(euler, sigmas):
    """Result of ComfyUI's own guider on a MODEL."""
    import comfy.samplers

    def run(model: Any, cfg: float = 1.0) -> Tensor:
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(text(), text(6))
        guider.set_cfg(cfg)
        return sample(guider, euler, sigmas)

    return run


def test_untrained_adapter_gives_the_base_bit_for_bit(model, tmp_path, animate, plain):
    path = write_adapter(tmp_path / "a.safetensors", trained=False)
    assert torch.equal(animate(apply(model, path), PLAIN, text()), plain(model))


def test_strength_zero_gives_the_base_bit_for_bit(model, adapter_path, animate, plain):
    assert torch.equal(animate(apply(model, adapter_path, 0.0), PLAIN, text()), plain(model))
    assert not torch.allclose(animate(apply(model, adapter_path), PLAIN, text()), plain(model), atol=1e-2)


def test_a_plain_sampler_gets_attention_over_the_frames(model, adapter_path, plain):
    base, ours = plain(model, cfg=2.0), plain(apply(model, adapter_path), cfg=2.0)
    assert torch.isfinite(ours).all()
    assert not torch.allclose(base, ours, atol=1e-2)


def test_the_base_is_unchanged_after_our_run(model, tmp_path, animate, plain):
    before = plain(model, cfg=2.0)
    path = write_adapter(tmp_path / "a.safetensors", lora=True)
    animate(apply(model, path))
    assert torch.equal(before, plain(model, cfg=2.0))


def test_text_conditioning_reaches_the_model(model, adapter_path, animate):
    applied = apply(model, adapter_path)
    assert not torch.allclose(animate(applied), animate(applied, conditioning=text()), atol=1e-3)


# --- beside other nodes ---


def test_lora_loader_before_and_after_give_the_same(model, adapter_path, animate):
    import comfy.sd

    lora = {
        f"transformer.{k}".replace(".A.", ".lora_A.").replace(".B.", ".lora_B."): v for k, v in lora_deltas().items()
    }

    def with_lora(m: Any) -> Any:
        return comfy.sd.load_lora_for_models(m, None, dict(lora), 1.0, 0.0)[0]

    before, after = apply(with_lora(model), adapter_path), with_lora(apply(model, adapter_path))
    ours = animate(before)
    torch.testing.assert_close(ours, animate(after), **CLOSE)
    assert not torch.allclose(ours, animate(apply(model, adapter_path)), atol=1e-3)


def brighter(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Another pack's patch: the block, then a change of its output."""
    out = extra["original_block"](args)
    return {**out, "img": out["img"] * 1.1}


def test_another_owner_of_the_block_before_and_after_gives_the_same(model, adapter_path, animate, plain):
    def owned(m: Any) -> Any:
        m = m.clone()
        for block in (0, 1):
            m.set_model_patch_replace(brighter, "dit", "double_block", block)
        return m

    ours = animate(apply(owned(model), adapter_path))
    torch.testing.assert_close(ours, animate(owned(apply(model, adapter_path))), **CLOSE)
    assert not torch.allclose(ours, animate(apply(model, adapter_path)), atol=1e-3)  # the owner's change is there
    assert not torch.allclose(animate(apply(owned(model), adapter_path), PLAIN, text()), plain(owned(model)), atol=1e-3)


def test_skip_layer_guidance_before_and_after_gives_the_same(model, adapter_path, animate):
    from comfy_extras.nodes_sd3 import SkipLayerGuidanceSD3

    def guided(m: Any) -> Any:
        return SkipLayerGuidanceSD3.execute(m, layers="0", scale=2.0, start_percent=0.0, end_percent=1.0)[0]

    ours = animate(guided(apply(model, adapter_path)))
    torch.testing.assert_close(ours, animate(apply(guided(model), adapter_path)), **CLOSE)
    assert not torch.allclose(ours, animate(apply(model, adapter_path)), atol=1e-3)


@pytest.fixture
def control(bundled_file, tmp_path):
    """CONDITIONING with an SD3 ControlNet of random weights."""
    import comfy.controlnet
    import comfy.sd
    import comfy.utils
    from comfy_extras.nodes_sd3 import ControlNetApplySD3
    from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel

    torch.manual_seed(4)
    net = SD3ControlNetModel(
        sample_size=32, num_layers=1, attention_head_dim=64, num_attention_heads=2, joint_attention_dim=24,
        caption_projection_dim=128, pooled_projection_dim=16, pos_embed_max_size=16,
    )  # fmt: skip
    table = net.pos_embed.pos_embed.clone()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    net.pos_embed.pos_embed.copy_(table)
    path = save_tensors(tmp_path / "control.safetensors", net.state_dict())
    loaded = comfy.controlnet.load_controlnet(str(path), model_options={"dtype": torch.float32})
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(bundled_file("mini_autoencoder.safetensors"))))
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(8))

    def conditioning(strength: float) -> Any:
        return ControlNetApplySD3.execute(text(), text(), loaded, hint, strength, 0.0, 1.0, vae)[0]

    return conditioning


def test_controlnet_works_with_all_branches(model, adapter_path, animate, control):
    applied = apply(model, adapter_path)
    without, controlled = animate(applied, conditioning=text()), animate(applied, conditioning=control(1.0))
    assert torch.isfinite(controlled).all()
    assert not torch.allclose(without, controlled, atol=1e-3)
    torch.testing.assert_close(animate(applied, conditioning=control(0.0)), without, **CLOSE)


def test_what_has_no_effect_is_said(model, adapter_path, animate, caplog):
    applied = apply(model, adapter_path)
    applied.set_model_sampler_cfg_function(lambda args: args["cond"])
    animate(applied, PLAIN)
    assert "sampler_cfg_function of another node has no effect" in caplog.text


# --- memory, devices, caches ---


class Spy:
    """Remembers how the branches were put together."""

    def __init__(self, model: Any) -> None:
        from comfy.patcher_extension import WrappersMP

        self.batches: list[list[int]] = []
        self.model = model.clone()
        self.model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", self.wrapper)

    def wrapper(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self.batches.append(list(args[5]["cond_or_uncond"]))
        return executor(*args, **kwargs)


@pytest.mark.parametrize("conditioning", ["cached", "joint"])
def test_branches_run_apart_equal_branches_run_together(conditioning, model, tmp_path, animate, monkeypatch):
    import comfy.model_base

    spy = Spy(apply(model, write_adapter(tmp_path / "a.safetensors", conditioning=conditioning)))
    together = animate(spy.model)
    assert {len(b) for b in spy.batches} == {3}
    spy.batches.clear()
    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", lambda *args, **kwargs: 1e15)
    apart = animate(spy.model)
    assert {len(b) for b in spy.batches} == {1}
    torch.testing.assert_close(together, apart, **CLOSE)


def test_branches_without_a_coefficient_are_not_computed(model, adapter_path, animate):
    spy = Spy(apply(model, adapter_path))
    animate(spy.model, PLAIN)
    assert {len(b) for b in spy.batches} == {1}


def test_memory_is_asked_for_the_streams_too(model, adapter_path, animate):
    from comfy.patcher_extension import WrappersMP

    asked = []

    def spy(executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(noise_shape[0])
        return executor(model, noise_shape, *args, **kwargs)

    applied = apply(model, adapter_path)
    applied.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "spy", spy)
    animate(applied)
    assert asked[0] > FRAMES


def test_the_estimate_grows_with_what_is_kept(adapter_path):
    from svdp.model.hosts.comfy import extra_bytes, load_adapter

    config = load_adapter(str(adapter_path), "a").config
    small, long, large = (extra_bytes(config, shape, 2) for shape in ((4, 16, 8, 8), (8, 16, 8, 8), (4, 16, 16, 16)))
    assert small < long < 2 * small
    assert large == pytest.approx(4 * small)


def test_adapter_weights_are_loaded_by_comfyui(model, adapter_path, animate):
    import comfy.model_management
    from svdp.model.adapter import Adapter

    applied = apply(model, adapter_path)
    animate(applied)
    loaded = [m.model.model for m in comfy.model_management.current_loaded_models if m.model is not None]
    assert any(isinstance(m, Adapter) for m in loaded)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
def test_cast_weights_give_nearly_the_same(dtype, base_path, model, adapter_path, animate):
    import comfy.sd

    cast = comfy.sd.load_diffusion_model(str(base_path), model_options={"dtype": dtype})
    ours, full = animate(apply(cast, adapter_path), PLAIN), animate(apply(model, adapter_path), PLAIN)
    assert torch.corrcoef(torch.stack([ours.flatten(), full.flatten()]))[0, 1] > 0.95
    assert not torch.equal(ours, full)


def test_quantised_weights_of_another_packs_layers_work(base_path, model, adapter_path, animate):
    """Layers that hold integers and dequantise on the way, as GGUF loaders have them: no weight is touched directly."""
    import comfy.ops
    import comfy.sd

    class Layers(comfy.ops.manual_cast):
        class Linear(comfy.ops.manual_cast.Linear):
            def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
                weight = state[prefix + "weight"].float()
                self.scale = weight.abs().amax() / 127
                self.weight = torch.nn.Parameter((weight / self.scale).round().to(torch.int8), requires_grad=False)
                if prefix + "bias" in state:
                    self.bias = torch.nn.Parameter(state[prefix + "bias"].float(), requires_grad=False)

            def forward(self, x: Tensor) -> Tensor:
                return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)

    options = {"custom_operations": Layers, "dtype": torch.float32}
    quantised = comfy.sd.load_diffusion_model(str(base_path), model_options=options)
    ours, full = animate(apply(quantised, adapter_path), PLAIN), animate(apply(model, adapter_path), PLAIN)
    assert torch.corrcoef(torch.stack([ours.flatten(), full.flatten()]))[0, 1] > 0.95
    assert not torch.equal(ours, full)


def test_attention_kernels_that_others_chose_are_used(model, adapter_path, animate):
    calls = []

    def kernel(original: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(k.shape[-2] > q.shape[-2])
        return original(q, k, v, *args, **kwargs)

    applied = apply(model, adapter_path)
    ours = animate(applied)
    applied.model_options["transformer_options"]["optimized_attention_override"] = kernel
    assert torch.equal(animate(applied), ours)
    assert any(calls)  # also where our streams are attended to


def test_several_conditionings_with_masks_are_mixed(model, adapter_path, animate):
    applied, half = apply(model, adapter_path), torch.zeros(1, 64, 64)
    half[:, :, :32] = 1
    regional = text(mask=half, mask_strength=1.0) + text(6, mask=1 - half, mask_strength=1.0)
    left, right, both = (animate(applied, conditioning=c) for c in (text(), text(6), regional))
    assert torch.isfinite(both).all()
    assert not torch.allclose(both, left, atol=1e-3) and not torch.allclose(both, right, atol=1e-3)


def test_a_second_run_from_cache_gives_the_same(model, adapter_path, signals, euler, sigmas):
    from svdp.model.hosts.comfy_guider import SVDPGuider

    guider = SVDPGuider(apply(model, adapter_path), signals, THREE)
    assert torch.equal(sample(guider, euler, sigmas), sample(guider, euler, sigmas))


def test_two_samplers_in_one_graph_do_not_meet(model, adapter_path, tmp_path, euler, sigmas):
    from svdp.model.hosts.comfy_guider import SVDPGuider

    other_path = write_adapter(tmp_path / "other.safetensors", conditioning="joint", lora=True)
    adapters = [apply(model, adapter_path), apply(model, other_path, 0.7)]
    guiders = [SVDPGuider(m, make_signals(FRAMES, seed=n), THREE) for n, m in enumerate(adapters)]
    alone = [sample(g, euler, sigmas) for g in guiders]
    again = [sample(g, euler, sigmas) for g in guiders]
    assert torch.equal(alone[0], again[0]) and torch.equal(alone[1], again[1])
    assert not torch.allclose(alone[0], alone[1], atol=1e-2)


def test_an_interrupt_stops_at_the_next_step_and_frees_the_streams(model, adapter_path, signals, euler, sigmas):
    import comfy.model_management as management
    from svdp.model.hosts.comfy_guider import SVDPGuider

    guider = SVDPGuider(apply(model, adapter_path), signals, THREE)
    whole = sample(guider, euler, sigmas)
    steps, states = [], []

    def callback(step: int, *_: Any) -> None:
        steps.append(step)
        states.append(weakref.ref(guider._state))
        management.interrupt_current_processing(True)

    with pytest.raises(management.InterruptProcessingException):
        sample(guider, euler, sigmas, callback)
    assert steps == [0]
    gc.collect()
    assert states[0]() is None
    assert torch.equal(whole, sample(guider, euler, sigmas))


# --- what is refused ---


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
    from svdp.model.hosts.comfy import load_adapter

    with pytest.raises(AdapterMismatchError, match="not an SVDP adapter"):
        load_adapter(str(bundled_file("mini_autoencoder.safetensors")), "mini_autoencoder.safetensors")


def test_a_second_adapter_is_refused(model, adapter_path):
    with pytest.raises(UserError, match="already"):
        apply(apply(model, adapter_path), adapter_path)


def test_a_model_without_adapter_is_refused(model, signals):
    from svdp.model.hosts.comfy_guider import SVDPGuider

    with pytest.raises(UserError, match="Apply"):
        SVDPGuider(model, signals, THREE)


def test_latents_that_do_not_fit_are_refused(model, adapter_path, euler, sigmas):
    from svdp.model.hosts.comfy_guider import SVDPGuider

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
    from svdp.model.hosts.comfy import _patcher, _read

    parts = _read(str(adapter_path), "a")
    if not hasattr(comfy.memory_management, "aimdo_enabled"):
        pytest.skip("this ComfyUI has no dynamic VRAM")
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    loaded = _patcher(parts, str(adapter_path)).model.state_dict()
    for name, tensor in load_file(adapter_path).items():
        assert torch.equal(loaded[name], tensor)
