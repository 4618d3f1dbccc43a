"""Every form in which an autoencoder of SD3's latent space may come, and a base in diffusers folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from svdp.errors import UserError
from svdp.model.autoencoder import SD3_SCALE, SD3_SHIFT, TinyAutoencoder
from svdp.model.backends.diffusers_vae import KLCodec, load_autoencoder
from svdp.signals.video import VideoReader
from torch import Tensor

LEVELS = 4
NATIVE = (  # diffusers name -> name in single files
    (r"(encoder)\.down_blocks\.(\d)\.resnets\.(\d)", r"\1.down.\2.block.\3"),
    (r"(encoder)\.down_blocks\.(\d)\.downsamplers\.0\.conv", r"\1.down.\2.downsample.conv"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
)


def tiny_vae(channels: int = 16) -> AutoencoderKL:
    torch.manual_seed(0)
    shape = {
        "down_block_types": ("DownEncoderBlock2D",) * LEVELS,
        "up_block_types": ("UpDecoderBlock2D",) * LEVELS,
        "block_out_channels": (8, 8, 16, 16),
    }
    return AutoencoderKL(
        **shape,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=channels,
        scaling_factor=SD3_SCALE,
        shift_factor=SD3_SHIFT,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).requires_grad_(False)


def native_state(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The VAE's weights under the names of single-file checkpoints."""
    state = {}
    for name, tensor in vae.state_dict().items():
        up = re.match(r"decoder\.up_blocks\.(\d)\.(.*)", name)
        if up:
            rest = re.sub(r"^resnets\.(\d)", r"block.\1", up[2]).replace("upsamplers.0.conv", "upsample.conv")
            name = f"decoder.up.{LEVELS - 1 - int(up[1])}.{rest}"
        for ours, theirs in NATIVE:
            name = re.sub(ours, theirs, name)
        state[name] = tensor[..., None, None] if "attn_1" in name and tensor.ndim == 2 else tensor
    return state


def test_latents_are_scaled_and_shifted_as_the_transformer_sees_them():
    vae = tiny_vae()
    codec, picture = KLCodec(vae), torch.rand(2, 3, 32, 32)
    raw = vae.encode(picture * 2 - 1).latent_dist.mean
    assert torch.allclose(codec.encode(picture), (raw - SD3_SHIFT) * SD3_SCALE, atol=1e-6)
    expected = (vae.decode(raw).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(codec.decode(codec.encode(picture)), expected, atol=1e-5)


@pytest.mark.parametrize("form", ["folder", "model folder", "native file", "checkpoint", "diffusers file"])
def test_every_form_gives_the_same_pictures(form, tmp_path):
    vae, picture = tiny_vae(), torch.rand(1, 3, 32, 32)
    path = tmp_path / "vae.safetensors"
    if form == "folder":
        vae.save_pretrained(path := tmp_path / "vae")
    elif form == "model folder":
        vae.save_pretrained(tmp_path / "model" / "vae")
        path = tmp_path / "model"
    elif form == "diffusers file":
        save_file(vae.state_dict(), path)
    else:
        prefix = "first_stage_model." if form == "checkpoint" else ""
        save_file({prefix + k: v.contiguous() for k, v in native_state(vae).items()}, path)
    codec, expected = load_autoencoder(path, "cpu", torch.float32), KLCodec(vae)
    assert torch.allclose(codec.encode(picture), expected.encode(picture), atol=1e-5)
    latents = torch.randn(1, 16, 4, 4)
    assert torch.allclose(codec.decode(latents), expected.decode(latents), atol=1e-5)


def test_taesd_in_one_file_and_in_two(tmp_path):
    tiny = TinyAutoencoder()
    tiny.save(tmp_path / "one.safetensors", dtype=torch.float32)
    state = load_file(tmp_path / "one.safetensors")
    for half in ("encoder", "decoder"):
        part = {k.removeprefix(f"taesd_{half}."): v for k, v in state.items() if k.startswith(f"taesd_{half}.")}
        save_file(part, tmp_path / f"taesd3_{half}.safetensors")
    picture = torch.rand(1, 3, 16, 16)
    for name in ("one.safetensors", "taesd3_encoder.safetensors", "taesd3_decoder.safetensors"):
        codec = load_autoencoder(tmp_path / name, "cpu", torch.float32)
        assert torch.equal(codec.decode(codec.encode(picture)), tiny.decode(tiny.encode(picture)))


def test_another_model_s_autoencoder_is_refused(tmp_path):
    tiny_vae(channels=4).save_pretrained(tmp_path / "sd15")
    with pytest.raises(UserError, match=r"sd15 has 4 latent channels, SD3 has 16: it belongs to another model"):
        load_autoencoder(tmp_path / "sd15", "cpu", torch.float32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no autoencoder in folder .*empty: give a TAESD file"):
        load_autoencoder(tmp_path / "empty", "cpu", torch.float32)


def test_animating_with_a_diffusers_model_folder_and_its_own_autoencoder(animate, tiny_weights: Path, tmp_path: Path):
    from svdp.model.backends.diffusers import load_transformer

    load_transformer(tiny_weights / "base.safetensors").save_pretrained(tmp_path / "sd3" / "transformer")
    tiny_vae().save_pretrained(tmp_path / "sd3" / "vae")
    own = ("--autoencoder", tmp_path / "sd3")
    code, said = animate("--base", tmp_path / "sd3", *own, "--max-frames", "2", "--keep-crop")
    assert code == 0, said
    assert VideoReader(tmp_path / "out.mp4").num_frames == 2
