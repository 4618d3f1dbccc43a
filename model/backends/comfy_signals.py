"""ComfyUI backend, signals: a video's conditions as latents, from pictures and masks as ComfyUI has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ..autoencoder import FACTOR, LATENT_CHANNELS
from ..config import REGIONS

_PATCH = 2
_BLACK = 0.02  # brightest value of a pixel that counts as blacked out


@dataclass(frozen=True)
class VideoSignals:
    """What a video is made from, as the VAE gives it (not scaled): source (1, C, h, w), masked driving frames
    (F, C, h, w), and where each region is, (F, 3, h, w) in [0, 1] in the order eyes, nose, mouth."""

    source: Tensor
    driving: Tensor
    masks: Tensor

    @property
    def num_frames(self) -> int:
        """Length of the video."""
        return len(self.driving)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape (C, h, w) of one frame's latent."""
        return tuple(self.driving.shape[1:])

    def take(self, start: int, stop: int) -> VideoSignals:
        """The signals of frames [start, stop)."""
        return replace(self, driving=self.driving[start:stop], masks=self.masks[start:stop])


def encode_signals(
    vae: Any, source_1HWC: Tensor, masked_FHWC: Tensor, masks: Sequence[Tensor | None], union: Tensor | None = None
) -> VideoSignals:
    """Signals of a portrait and masked driving frames, pictures in [0, 1] of one size.

    Args:
        masks: of eyes, nose and mouth, (F, H, W) or (1, H, W) each; None: not given.
        union: one for all regions where none of the three is given; without it, what is not black.
    Raises: `UserError` if sizes or numbers of frames do not fit, or the VAE is not SD3's.
    """
    _check_pictures(source_1HWC, masked_FHWC)
    frames, height, width = masked_FHWC.shape[:3]
    if all(m is None for m in masks):
        union = _not_black(masked_FHWC) if union is None else union
        masks = [union] * len(REGIONS)
    planes = [_mask(m, name, frames, (height, width)) for m, name in zip(masks, REGIONS, strict=True)]
    return VideoSignals(
        source=_encode(vae, source_1HWC),
        driving=_encode(vae, masked_FHWC),
        masks=torch.stack([F.max_pool2d(plane, FACTOR) for plane in planes], 1),
    )


def _check_pictures(source: Tensor, masked: Tensor) -> None:
    if len(source) != 1:
        raise UserError(f"the source is one picture, got {len(source)}: take one with Get Image from Batch")
    sizes = [tuple(t.shape[1:3]) for t in (source, masked)]
    if sizes[0] != sizes[1]:
        (sh, sw), (dh, dw) = sizes
        raise UserError(
            f"the source is {sw} x {sh} pixels, the driving frames are {dw} x {dh}: cut both with Face Crop at one size"
        )
    step = FACTOR * _PATCH
    if sizes[0][0] % step or sizes[0][1] % step:
        raise UserError(f"pictures of {sizes[0][1]} x {sizes[0][0]}: both sides must be multiples of {step} pixels")


def _not_black(pictures_FHWC: Tensor) -> Tensor:
    return (pictures_FHWC[..., :3].amax(-1) > _BLACK).float()


def _mask(mask: Tensor | None, name: str, frames: int, size: tuple[int, int]) -> Tensor:
    """A region's mask (F, H, W) at the pictures' size; empty if it is not given."""
    if mask is None:
        return torch.zeros(frames, *size)
    mask = mask.float() if mask.ndim == 3 else mask.float()[None]
    if len(mask) not in (1, frames):
        raise UserError(f"{frames} driving frames, but {len(mask)} masks of the {name}: give one for each, or one")
    if tuple(mask.shape[1:]) != size:
        mask = F.interpolate(mask[:, None], size, mode="nearest")[:, 0]
    return mask.expand(frames, -1, -1)


def _encode(vae: Any, pictures: Tensor) -> Tensor:
    latents = vae.encode(pictures[..., :3]).float()
    want = (LATENT_CHANNELS, pictures.shape[1] // FACTOR, pictures.shape[2] // FACTOR)
    if tuple(latents.shape[1:]) != want:
        raise UserError(
            f"this VAE makes latents of {tuple(latents.shape[1:])}, SD3's are {want}: load the VAE of Stable Diffusion "
            "3 or 3.5, or the bundled small one"
        )
    return latents
