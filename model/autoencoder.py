"""A tiny autoencoder in SD3's latent space in the form of TAESD (madebyollin/taesd), which ComfyUI loads as a VAE.

Legend: B pictures, C 16 latent channels, H, W picture size, h, w latent size (H / 8, W / 8)
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import Conv2d
from torch.nn import functional as F

from ..errors import UserError
from .files import WeightFile, cast_weights, check_tensors

WIDTH = 64
LATENT_CHANNELS = 16
FACTOR = 8
SD3_SCALE, SD3_SHIFT = 1.5305, 0.0609  # model space = (raw VAE latent - shift) * scale
ENCODER_PREFIX, DECODER_PREFIX = "taesd_encoder.", "taesd_decoder."
# What turns TAESD's latents (model space) into raw ones where the backend expects raw ones; not weights of ours.
COMFY_KEYS = ("vae_scale", "vae_shift")
_REMEDY = "; use the bundled one, or the encoder and decoder of TAESD3 as a pair"


def _conv(n_in: int, n_out: int, stride: int = 1, bias: bool = True) -> Conv2d:
    return Conv2d(n_in, n_out, 3, stride, padding=1, bias=bias)


class SoftClamp(nn.Module):
    """Keeps latents in (-3, 3): identity near zero, saturating far away."""

    def forward(self, z_BChw: Tensor) -> Tensor:
        """Same shape as the input."""
        return torch.tanh(z_BChw / 3) * 3


class Block(nn.Module):
    """Three convolutions with a residual connection; the ReLU that fuses them is the block's output.

    A skipped block has zero weights, so it is a ReLU. Its convolutions are not computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH))
        self.skip = nn.Identity()
        self.fuse = nn.ReLU()
        self.skipped = False

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 64, ., .) of the same size."""
        return self.fuse(x) if self.skipped else self.fuse(self.conv(x) + self.skip(x))


class UpsampledConv(Conv2d):
    """Nearest-neighbour upsampling by two, then a 3x3 convolution, computed as one transposed convolution.

    The result is the same; the operations are 4/9.
    """

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64, 2h, 2w) from (B, 64, h, w)."""
        w = self.weight
        pairs = F.pad(w, (1, 1, 1, 1))
        pairs = pairs[..., 1:] + pairs[..., :-1]  # each input pixel lies under two columns and two rows of the kernel
        pairs = pairs[..., 1:, :] + pairs[..., :-1, :]
        return F.conv_transpose2d(x, pairs.flip(-1, -2).transpose(0, 1), stride=2, padding=1)


def _blocks(count: int) -> list[nn.Module]:
    return [Block() for _ in range(count)]


def _encoder() -> nn.Sequential:
    layers: list[nn.Module] = [_conv(3, WIDTH), *_blocks(1)]
    for _ in range(3):
        layers += [_conv(WIDTH, WIDTH, stride=2, bias=False), *_blocks(3)]
    return nn.Sequential(*layers, _conv(WIDTH, LATENT_CHANNELS))


def _decoder() -> nn.Sequential:
    layers: list[nn.Module] = [SoftClamp(), _conv(LATENT_CHANNELS, WIDTH), nn.ReLU()]
    for _ in range(3):
        layers += [*_blocks(3), nn.Identity(), UpsampledConv()]  # the identity keeps TAESD's numbers of layers
    return nn.Sequential(*layers, *_blocks(1), _conv(WIDTH, 3))


class TinyAutoencoder(nn.Module):
    """Pictures in [0, 1] to latents as the SD3 transformer sees them, and back (2.4M parameters).

    The latents are already scaled and shifted: (raw - 0.0609) * 1.5305 of SD3's own VAE. Weight names are those of
    TAESD under `taesd_encoder.` and `taesd_decoder.`; files of TAESD3 fit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taesd_encoder = _encoder()
        self.taesd_decoder = _decoder()

    def skip_blocks(self, names: Iterable[str]) -> None:
        """Set the named blocks' weights to zero and leave them out, as in `taesd_decoder.17`. Raises UserError."""
        blocks = {name: module for name, module in self.named_modules() if isinstance(module, Block)}
        unknown = sorted(set(names) - blocks.keys())
        if unknown:
            raise UserError(f"the autoencoder has no blocks {unknown}; its blocks are {sorted(blocks)}")
        for name in names:
            blocks[name].skipped = True
            for parameter in blocks[name].parameters():
                nn.init.zeros_(parameter).requires_grad_(False)

    @property
    def skipped_blocks(self) -> tuple[str, ...]:
        """Names of the blocks that are left out."""
        return tuple(n for n, m in self.named_modules() if isinstance(m, Block) and m.skipped)

    def encode(self, x_B3HW: Tensor) -> Tensor:
        """Latents (B, 16, H/8, W/8) of pictures in [0, 1].

        Raises UserError if the pictures are not RGB or their sides are not multiples of 8.
        """
        _check_pictures(x_B3HW)
        return self.taesd_encoder(x_B3HW)

    def decode(self, z_BChw: Tensor) -> Tensor:
        """Pictures (B, 3, 8h, 8w) in [0, 1] of latents (B, 16, h, w). Raises UserError on any other shape."""
        if z_BChw.ndim != 4 or z_BChw.shape[1] != LATENT_CHANNELS:
            raise UserError(
                f"this autoencoder decodes latents of shape (B, {LATENT_CHANNELS}, h, w), got {tuple(z_BChw.shape)}: "
                "use latents of SD3 or SD 3.5"
            )
        return self.taesd_decoder(z_BChw).clamp(0, 1)

    def save(
        self, path: str | Path, metadata: Mapping[str, str] | None = None, dtype: torch.dtype = torch.float16
    ) -> None:
        """Write one safetensors file that `load` and ComfyUI's VAE loader read; complete or not there at all."""
        path = Path(path)
        state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in self.state_dict().items()}
        state |= {"vae_scale": torch.tensor(SD3_SCALE), "vae_shift": torch.tensor(SD3_SHIFT)}
        header = {
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": "taesd3",
            "modelspec.implementation": "svdp",
            "modelspec.title": "Tiny autoencoder in SD3's latent space",
            **(metadata or {}),
        }
        part = path.with_name(path.name + ".part")
        save_file(state, part, metadata=header)
        os.replace(part, path)

    @classmethod
    def load(cls, encoder: str | Path, decoder: str | Path | None = None) -> "TinyAutoencoder":
        """Read a file of `save`, or a pair of TAESD files (bare keys, encoder first), in float32 and ready to use.

        Raises UserError if a file is missing, unreadable, or not a 16-channel TAESD.
        """
        if decoder is None:
            state = _read(encoder)
        else:
            state = _prefixed(_read(encoder), ENCODER_PREFIX) | _prefixed(_read(decoder), DECODER_PREFIX)
        model = cls()
        where = f"autoencoder {encoder}" if decoder is None else f"autoencoder {encoder} with {decoder}"
        check_tensors(f"{where} is not a 16-channel TAESD", model.state_dict(), state, hint=_REMEDY)
        model.load_state_dict(cast_weights(where, state, torch.float32))
        for module in model.modules():
            if isinstance(module, Block):
                module.skipped = not any(bool(p.any()) for p in module.parameters())
        return model.requires_grad_(False).train(False)


def _check_pictures(x_B3HW: Tensor) -> None:
    if x_B3HW.ndim != 4 or x_B3HW.shape[1] != 3:
        raise UserError(f"this autoencoder encodes RGB pictures of shape (B, 3, H, W), got {tuple(x_B3HW.shape)}")
    height, width = x_B3HW.shape[2:]
    if height % FACTOR or width % FACTOR or not height or not width:
        raise UserError(f"picture sides must be multiples of {FACTOR}, got {height}x{width}: crop, pad or resize first")


def _read(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, but those that are ComfyUI's."""
    file = WeightFile.open(path, "autoencoder")
    return file.read(name for name in file.entries if name not in COMFY_KEYS)


def _prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same weights under `prefix`, whether or not the file had it."""
    return {prefix + key.removeprefix(prefix): value for key, value in state.items()}
