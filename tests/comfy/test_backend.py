"""An adapter on a MODEL: what it may not change, and life beside other nodes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .backend import CLOSE, PLAIN, apply, text
from .conftest import lora_deltas, save_tensors, write_adapter


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


def test_patches_for_other_models_are_told_once(model, adapter_path, animate, caplog):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance
    from comfy_extras.nodes_sd3 import SkipLayerGuidanceSD3

    applied = apply(model, adapter_path)
    skipping = SkipLayerGuidanceSD3.execute(applied, layers="0", scale=2.0, start_percent=0.0, end_percent=1.0)[0]
    ours = animate(skipping)
    assert "no effect" not in caplog.text
    perturbed = PerturbedAttentionGuidance.execute(applied, 3.0)[0]
    torch.testing.assert_close(animate(perturbed), animate(applied), **CLOSE)
    assert [r.getMessage()[:38] for r in caplog.records if "no effect" in r.getMessage()] == [
        "attn1 of another node has no effect: S"
    ]
    assert not torch.allclose(ours, animate(applied), atol=1e-3)
