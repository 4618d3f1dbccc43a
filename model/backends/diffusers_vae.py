"""Any autoencoder of SD3's latent space behind one interface: TAESD form, diffusers folder, single file, checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...errors import UserError
from ..autoencoder import DECODER_PREFIX, LATENT_CHANNELS, SD3_SCALE, SD3_SHIFT, TinyAutoencoder

_CHECKPOINT_PREFIXES = ("first_stage_model.", "vae.", "")
_KNOWN_FORMS = "a TAESD file, a diffusers folder, an SD3 VAE file, or an SD3 checkpoint that contains one"


class PictureCodec(Protocol):
    """Pictures (B, 3, H, W) in [0, 1] to latents (B, 16, H/8, W/8) as the transformer sees them, and back."""

    def encode(self, x_B3HW: Tensor) -> Tensor: ...

    def decode(self, z_BChw: Tensor) -> Tensor: ...


class KLCodec(nn.Module):
    """A diffusers `AutoencoderKL` with SD3's scale and shift applied; encoding takes the mean, so it is repeatable."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae: Any = vae
        self.scale = float(vae.config.get("scaling_factor") or SD3_SCALE)
        self.shift = float(vae.config.get("shift_factor") or 0.0)

    def encode(self, x_B3HW: Tensor) -> Tensor:
        """Latents in model space."""
        return (self.vae.encode(x_B3HW * 2 - 1).latent_dist.mode() - self.shift) * self.scale

    def decode(self, z_BChw: Tensor) -> Tensor:
        """Pictures in [0, 1]."""
        return (self.vae.decode(z_BChw / self.scale + self.shift, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)


def load_autoencoder(path: Path, device: str | torch.device, dtype: torch.dtype) -> PictureCodec:
    """Read the autoencoder at `path`. Raises UserError if it is none of the known forms or not of 16 channels."""
    codec = _from_folder(path) if path.is_dir() else _from_file(path)
    return cast(PictureCodec, codec.requires_grad_(False).train(False).to(device, dtype))


def _from_folder(path: Path) -> nn.Module:
    folder = path / "vae" if (path / "vae").is_dir() else path
    if not (folder / "config.json").is_file():
        raise UserError(f"no autoencoder in folder {path}: give {_KNOWN_FORMS} with --autoencoder")
    try:
        vae = AutoencoderKL.from_pretrained(str(folder), local_files_only=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"autoencoder {folder} cannot be read ({_first_line(error)}): get it again") from error
    return _checked(vae, path)


def _from_file(path: Path) -> nn.Module:
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            if any(n.startswith(DECODER_PREFIX) for n in names):
                return TinyAutoencoder.load(path)
            if _is_bare_taesd(names):
                return TinyAutoencoder.load(*_pair(path))
            prefix = next((p for p in _CHECKPOINT_PREFIXES if f"{p}decoder.conv_in.weight" in names), None)
            if prefix is None:
                raise UserError(f"no autoencoder in {path}: give {_KNOWN_FORMS} with --autoencoder")
            state = {n.removeprefix(prefix): file.get_tensor(n).float() for n in names if n.startswith(prefix)}
    except (SafetensorError, OSError) as error:
        raise UserError(f"autoencoder {path} is not a readable safetensors file ({error}): get it again") from error
    return _checked(_from_state(state, path), path)


def _from_state(state: Mapping[str, Tensor], path: Path) -> AutoencoderKL:
    """An `AutoencoderKL` of the shape that the tensors have, native or diffusers names."""
    native = "encoder.down.0.block.0.conv1.weight" in state
    stem = "encoder.down.{}.block.{}.conv1.weight" if native else "encoder.down_blocks.{}.resnets.{}.conv1.weight"
    depth = next(i for i in range(99) if stem.format(i, 0) not in state)
    layers = next(i for i in range(99) if stem.format(0, i) not in state)
    if not depth:
        raise UserError(f"the autoencoder in {path} is not of SD3's form: give {_KNOWN_FORMS} with --autoencoder")
    widths = tuple(state[stem.format(i, 0)].shape[0] for i in range(depth))
    per_level: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * depth,
        "up_block_types": ("UpDecoderBlock2D",) * depth,
        "block_out_channels": widths,
    }
    vae = AutoencoderKL(
        **per_level,
        layers_per_block=layers,
        norm_num_groups=min(32, widths[0]),
        latent_channels=state["decoder.conv_in.weight"].shape[1],
        scaling_factor=SD3_SCALE,
        shift_factor=SD3_SHIFT,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    weights = convert_ldm_vae_checkpoint(dict(state), dict(vae.config)) if native else dict(state)
    try:
        vae.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"the autoencoder in {path} is not of SD3's form ({_first_line(error)})") from error
    return vae


def _checked(vae: AutoencoderKL, path: Path) -> nn.Module:
    channels = vae.config["latent_channels"]
    if channels != LATENT_CHANNELS:
        raise UserError(
            f"the autoencoder in {path} has {channels} latent channels, SD3 has {LATENT_CHANNELS}: it belongs to "
            "another model; give SD3's own or TAESD3"
        )
    return KLCodec(vae)


def _is_bare_taesd(names: set[str]) -> bool:
    """TAESD's published halves have names like 0.weight, 1.conv.0.weight."""
    return bool(names) and all(n.split(".")[0].isdigit() for n in names)


def _pair(path: Path) -> tuple[Path, Path]:
    """Encoder and decoder of TAESD3, given either of the two."""
    encoder = path.with_name(path.name.replace("decoder", "encoder"))
    return encoder, path.with_name(path.name.replace("encoder", "decoder"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
