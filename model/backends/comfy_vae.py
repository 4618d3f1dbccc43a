"""ComfyUI backend, tiny autoencoder: ComfyUI's VAE of it, without the operations that change nothing.

Files of ours name blocks that are all zeros; ComfyUI's own loader computes them all the same. On a CPU, upsampling and
the convolution after it become one, and bfloat16 is used where the CPU has it.
"""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from comfy.cli_args import args
from torch import nn

from ..autoencoder import UpsampledConv
from ..precision import computes_bfloat16


def own_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 on a CPU that computes with it, where ComfyUI itself would take float32; None: as ComfyUI decides."""
    chosen = args.force_fp32 or args.fp32_unet or args.fp32_vae or args.fp16_unet or args.fp16_vae
    return torch.bfloat16 if device.type == "cpu" and computes_bfloat16(device) and not chosen else None


def load_tiny_vae(path: Path) -> Any:
    """The VAE of a tiny autoencoder's file, as quick as outside ComfyUI."""
    state, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    device = comfy.model_management.vae_device()
    vae = comfy.sd.VAE(sd=state, metadata=metadata, dtype=own_dtype(device))
    for half in (vae.first_stage_model.taesd_encoder, vae.first_stage_model.taesd_decoder):
        for name, block in list(half.named_children()):
            if hasattr(block, "fuse") and not any(bool(p.any()) for p in block.parameters()):
                setattr(half, name, nn.ReLU())
        if device.type == "cpu":
            _join_upsampling(half)
    return vae


def _join_upsampling(half: nn.Sequential) -> None:
    names = list(half._modules)
    for first, second in pairwise(names):
        if isinstance(half._modules[first], nn.Upsample):
            conv: Any = half._modules[second]
            joined = UpsampledConv()
            joined.weight = conv.weight
            setattr(half, first, nn.Identity())
            setattr(half, second, joined)
