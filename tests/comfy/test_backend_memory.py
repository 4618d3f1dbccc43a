"""An adapter on a MODEL: branches apart and together, memory, cast weights, a second run, interrupts."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from .backend import CLOSE, PLAIN, THREE, apply, sample, text
from .conftest import FRAMES, make_signals, write_adapter


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


def test_the_copy_gate_is_the_same_in_branches_run_apart(model, tmp_path, euler, sigmas, monkeypatch):
    import comfy.model_base
    from svdp.model.backends.comfy_guider import SVDPGuider

    path = write_adapter(tmp_path / "a.safetensors", posed=True, copy_gate=True, driving="aligned", aligned="pixels")
    spy, video = Spy(apply(model, path)), make_signals(FRAMES, posed=True)
    together = sample(SVDPGuider(spy.model, video, THREE), euler, sigmas)
    assert {len(b) for b in spy.batches} == {3}
    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", lambda *args, **kwargs: 1e15)
    torch.testing.assert_close(sample(SVDPGuider(spy.model, video, THREE), euler, sigmas), together, **CLOSE)


def test_an_untrained_copy_gate_gives_the_posed_source_where_it_is_known(model, tmp_path, euler, sigmas):
    from svdp.model.backends.comfy_guider import SVDPGuider

    path = write_adapter(tmp_path / "a.safetensors", posed=True, copy_gate=True, trained=False)
    video = make_signals(FRAMES, posed=True)
    made = sample(SVDPGuider(apply(model, path), video, PLAIN), euler, sigmas)
    away = (made - video.posed).abs().mean((0, 1, 2))  # by column: the left half is known
    assert float(away[:4].max()) < 0.5 * float(away[4:].min())


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
    from svdp.model.backends.comfy import extra_bytes, load_adapter

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
    from svdp.model.backends.comfy_guider import SVDPGuider

    guider = SVDPGuider(apply(model, adapter_path), signals, THREE)
    assert torch.equal(sample(guider, euler, sigmas), sample(guider, euler, sigmas))


def test_two_samplers_in_one_graph_do_not_meet(model, adapter_path, tmp_path, euler, sigmas):
    from svdp.model.backends.comfy_guider import SVDPGuider

    other_path = write_adapter(tmp_path / "other.safetensors", conditioning="joint", lora=True)
    adapters = [apply(model, adapter_path), apply(model, other_path, 0.7)]
    guiders = [SVDPGuider(m, make_signals(FRAMES, seed=n), THREE) for n, m in enumerate(adapters)]
    alone = [sample(g, euler, sigmas) for g in guiders]
    again = [sample(g, euler, sigmas) for g in guiders]
    assert torch.equal(alone[0], again[0]) and torch.equal(alone[1], again[1])
    assert not torch.allclose(alone[0], alone[1], atol=1e-2)


def test_an_interrupt_stops_at_the_next_step_and_frees_the_streams(model, adapter_path, signals, euler, sigmas):
    import comfy.model_management as management
    from svdp.model.backends.comfy_guider import SVDPGuider

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
