"""Any autoencoder of SD3's latent space behind one interface: TAESD form, diffusers folder, single file, checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast

import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from ...errors import UserError
from ..autoencoder import DECODER_PREFIX, LATENT_CHANNELS, SD3_SCALE, SD3_SHIFT, TinyAutoencoder
from ..checks import Within, build, check_fields, shortened
from ..files import Entry, Shaped, WeightFile, cast_weights, check_tensors, read_settings

MAX_LEVELS = 8
_FIRST = {  # a level's first convolution in the two forms of names
    "native": "encoder.down.{}.block.{}.conv1.weight",
    "diffusers": "encoder.down_blocks.{}.resnets.{}.conv1.weight",
}
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
    """Read the autoencoder at `path`. Raises UserError if it is none of the known forms, not of 16 channels, or if a
    setting or tensor in it is not as it must be, naming which."""
    codec = _from_folder(path) if path.is_dir() else _from_file(path)
    codec.requires_grad_(False).train(False)
    if dtype != torch.float32:
        cast_weights(f"autoencoder {path}", codec.state_dict(), dtype)  # refuses what `dtype` cannot hold
    return cast(PictureCodec, codec.to(device, dtype))


@dataclass(frozen=True, kw_only=True)
class _KLSettings:
    """What config.json of a diffusers folder says of an autoencoder; defaults are diffusers' own."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[Annotated[int, Within(1, 4096)], ...] = (64,)
    layers_per_block: Annotated[int, Within(1, 16)] = 1
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    latent_channels: Annotated[int, Within(1, 1024)] = 4
    norm_num_groups: Annotated[int, Within(1, 1024)] = 32
    scaling_factor: Annotated[float, Within(1e-4, 1e4)] | None = 0.18215
    shift_factor: Annotated[float, Within(-1e4, 1e4)] | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        depth = len(self.block_out_channels)
        if not 1 <= depth <= MAX_LEVELS or {len(self.down_block_types), len(self.up_block_types)} != {depth}:
            raise UserError(
                f"block_out_channels, down_block_types and up_block_types must be of one length up to {MAX_LEVELS}, "
                f"got {depth}, {len(self.down_block_types)} and {len(self.up_block_types)}"
            )
        if any(width % self.norm_num_groups for width in self.block_out_channels):
            raise UserError(
                f"block_out_channels {self.block_out_channels} are not multiples of norm_num_groups "
                f"{self.norm_num_groups}"
            )

    def table(self) -> dict[str, Any]:
        """As arguments of `AutoencoderKL`."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> _KLSettings:
        """Raises UserError naming file and field."""
        table, where = read_settings(path, "autoencoder"), f"autoencoder {path}"
        kind = table.get("_class_name", "AutoencoderKL")
        if kind != "AutoencoderKL":
            raise UserError(f"{where} is of class {shortened(kind)}: give {_KNOWN_FORMS} with --autoencoder")
        known = {f.name for f in fields(cls)}
        return build(cls, {k: v for k, v in table.items() if k in known}, where)


def _from_folder(path: Path) -> nn.Module:
    folder = path / "vae" if (path / "vae").is_dir() else path
    if not (folder / "config.json").is_file():
        raise UserError(f"no autoencoder in folder {path}: give {_KNOWN_FORMS} with --autoencoder")
    settings = _KLSettings.read(folder / "config.json")
    _check_channels(settings, path)
    file = WeightFile.open_folder(folder, "autoencoder")
    return _filled(settings, file.entries, file.read, f"autoencoder {path}")


def _from_file(path: Path) -> nn.Module:
    file = WeightFile.open(path, "autoencoder")
    names = set(file.entries)
    if any(n.startswith(DECODER_PREFIX) for n in names):
        return TinyAutoencoder.load(path)
    if _is_bare_taesd(names):
        return TinyAutoencoder.load(*_pair(path))
    prefix = next((p for p in _CHECKPOINT_PREFIXES if f"{p}decoder.conv_in.weight" in names), None)
    if prefix is None:
        raise UserError(f"no autoencoder in {path}: give {_KNOWN_FORMS} with --autoencoder")
    entries = {n.removeprefix(prefix): e for n, e in file.entries.items() if n.startswith(prefix)}

    def read() -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in file.read(prefix + n for n in entries).items()}

    native = _FIRST["native"].format(0, 0) in entries
    settings = _settings_of(entries, "native" if native else "diffusers", path)
    _check_channels(settings, path)
    if not native:
        return _filled(settings, entries, read, f"autoencoder {path}")
    converted = _to_diffusers(entries, settings, path)
    return _filled(
        settings, converted, lambda: convert_ldm_vae_checkpoint(read(), settings.table()), f"autoencoder {path}"
    )


def _to_diffusers(entries: Mapping[str, Entry], settings: _KLSettings, path: Path) -> dict[str, Tensor]:
    """Names and shapes of a single file as diffusers has them, without the numbers."""
    kinds = {n: e.dtype if isinstance(e.dtype, torch.dtype) else torch.int8 for n, e in entries.items()}
    empty = {n: torch.empty(e.shape, device="meta", dtype=kinds[n]) for n, e in entries.items()}
    try:
        return convert_ldm_vae_checkpoint(empty, settings.table())
    except (KeyError, IndexError, RuntimeError) as error:
        raise UserError(f"the autoencoder in {path} is not of SD3's form: {_first_line(error)} is missing") from error


def _settings_of(entries: Mapping[str, Entry], form: str, path: Path) -> _KLSettings:
    """The settings that the shapes of a single file tell, native or diffusers names."""
    stem = _FIRST[form]
    depth = next(i for i in range(99) if stem.format(i, 0) not in entries)
    layers = next(i for i in range(99) if stem.format(0, i) not in entries)
    first = [entries[stem.format(i, 0)].shape for i in range(depth)]
    latents = entries["decoder.conv_in.weight"].shape
    if not depth or any(len(shape) != 4 for shape in (*first, latents)):
        raise UserError(f"the autoencoder in {path} is not of SD3's form: give {_KNOWN_FORMS} with --autoencoder")
    widths = tuple(shape[0] for shape in first)
    try:
        return _KLSettings(
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            block_out_channels=widths,
            layers_per_block=layers,
            norm_num_groups=min(32, widths[0]),
            latent_channels=latents[1],
            scaling_factor=SD3_SCALE,
            shift_factor=SD3_SHIFT,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    except UserError as error:
        raise UserError(f"the autoencoder in {path} is not of SD3's form: {error}") from error


def _filled(
    settings: _KLSettings, found: Mapping[str, Shaped], read: Callable[[], dict[str, Tensor]], where: str
) -> nn.Module:
    """The module, after the names, shapes and types of its weights were checked."""
    with torch.device("meta"):
        vae = AutoencoderKL(**settings.table())
    check_tensors(f"{where} is not of SD3's form", vae.state_dict(), found)
    vae.load_state_dict(cast_weights(where, read(), torch.float32), assign=True)
    return KLCodec(vae)


def _check_channels(settings: _KLSettings, path: Path) -> None:
    if settings.latent_channels != LATENT_CHANNELS:
        raise UserError(
            f"the autoencoder in {path} has {settings.latent_channels} latent channels, SD3 has {LATENT_CHANNELS}: it "
            "belongs to another model; give SD3's own or TAESD3"
        )


def _is_bare_taesd(names: set[str]) -> bool:
    """TAESD's published halves have names like 0.weight, 1.conv.0.weight."""
    return bool(names) and all(n.split(".")[0].isdigit() for n in names)


def _pair(path: Path) -> tuple[Path, Path]:
    """Encoder and decoder of TAESD3, given either of the two."""
    encoder = path.with_name(path.name.replace("decoder", "encoder"))
    return encoder, path.with_name(path.name.replace("encoder", "decoder"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
