"""ComfyUI backend, signals: a video's conditions as latents, from pictures and masks as ComfyUI has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ..autoencoder import FACTOR, LATENT_CHANNELS
from ..config import REGIONS, AdapterConfig
from ..sampling import SegmentSignals

_PATCH = 2
_AT_ONCE = 32  # pictures given to the VAE together
_BY_FRAME = ("masks", "driving", "driving_pixels", "posed_pixels", "posed")
_BLACK = 0.02  # brightest value of a pixel that counts as blacked out


@dataclass(frozen=True)
class VideoSignals:
    """What a video of F frames is made from; latents are as the VAE gives them, not scaled.

    source (1, C, h, w); masks (F, 3, h, w) in [0, 1], where eyes, nose and mouth are; driving (F, C, h, w) masked
    driving frames; driving_pixels (F, 4, 8h, 8w) uint8, the same frames and where they show something; posed_pixels
    likewise, the posed source and what of it is known; posed (F, C, h, w) its latents. What is None is not there.
    Latents of driver and posed source are encoded by `vae` when an adapter asks for them, and then kept.
    """

    source: Tensor
    masks: Tensor
    driving: Tensor | None = None
    driving_pixels: Tensor | None = None
    posed_pixels: Tensor | None = None
    posed: Tensor | None = None
    vae: Any = None
    made: dict[str, Tensor] = field(default_factory=dict, repr=False)  # latents encoded so far

    @property
    def num_frames(self) -> int:
        """Length of the video."""
        return len(self.masks)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape (C, h, w) of one frame's latent."""
        return tuple(self.source.shape[1:])

    @property
    def has_posed(self) -> bool:
        """Whether there is a posed source."""
        return self.posed is not None or self.posed_pixels is not None

    def take(self, start: int, stop: int) -> VideoSignals:
        """The signals of frames [start, stop)."""
        part = {name: t[start:stop] for name in _BY_FRAME if (t := getattr(self, name)) is not None}
        return replace(self, **part, made={})

    def encoded(self, config: AdapterConfig, from_posed: bool = False) -> VideoSignals:
        """With all latents that the adapter needs; `from_posed`: sampling begins from the posed source."""
        wanted = {"driving": config.uses_driving_latents, "posed": config.copy_gate or from_posed}
        found = {name: t for name, needed in wanted.items() if needed and (t := self._latents(name)) is not None}
        return replace(self, **found)

    def only_for(self, config: AdapterConfig, from_posed: bool = False) -> VideoSignals:
        """Encoded, and without what the adapter does not take: for long videos."""
        return replace(
            self.encoded(config, from_posed),
            driving_pixels=self.driving_pixels if config.uses_aligned and config.aligned == "pixels" else None,
            posed_pixels=self.posed_pixels if config.posed else None,
            vae=None,
            made={},
        )

    def _latents(self, name: str) -> Tensor | None:
        own, pixels = getattr(self, name), getattr(self, f"{name}_pixels")
        if own is not None or pixels is None or self.vae is None:
            return own
        if name not in self.made:
            parts = [_encode(self.vae, part[:, :3].movedim(1, -1).float() / 255) for part in pixels.split(_AT_ONCE)]
            self.made[name] = torch.cat(parts)
        return self.made[name]

    def for_adapter(self, config: AdapterConfig, scaled: Callable[[Tensor], Tensor]) -> SegmentSignals:
        """What the adapter takes of them; `scaled` makes the VAE's latents those of the transformer."""

        def latents(t: Tensor | None, taken: bool) -> Tensor | None:
            return scaled(t) if taken and t is not None else None

        def pixels(t: Tensor | None, taken: bool) -> Tensor | None:
            return t.float() / 255 if taken and t is not None else None

        return SegmentSignals(
            self.masks,
            driving=latents(self.driving, config.uses_driving_latents),
            driving_pixels=pixels(self.driving_pixels, config.uses_aligned and config.aligned == "pixels"),
            posed_pixels=pixels(self.posed_pixels, config.posed),
            posed=latents(self.posed, config.copy_gate),
        )


def joined(parts: Sequence[VideoSignals]) -> VideoSignals:
    """One video from parts that follow each other, all of one source."""
    together = {
        name: torch.cat([getattr(p, name) for p in parts]) for name in _BY_FRAME if getattr(parts[0], name) is not None
    }
    return replace(parts[0], **together, made={})


def encode_source(vae: Any, source_1HWC: Tensor) -> Tensor:
    """Latent (1, C, h, w) of the portrait. Raises `UserError` if it is several pictures, or the VAE is not SD3's."""
    if len(source_1HWC) != 1:
        raise UserError(f"the source is one picture, got {len(source_1HWC)}: take one with Get Image from Batch")
    return _encode(vae, source_1HWC)


def encode_signals(
    vae: Any,
    source_1HWC: Tensor,
    masked_FHWC: Tensor,
    masks: Sequence[Tensor | None],
    union: Tensor | None = None,
    *,
    posed: Tensor | None = None,
    known: Tensor | None = None,
    source_latent: Tensor | None = None,
) -> VideoSignals:
    """Signals of a portrait and masked driving frames, pictures in [0, 1] of one size.

    Args:
        masks: of eyes, nose and mouth, (F, H, W) or (1, H, W) each; None: not given.
        union: one for all regions where none of the three is given; without it, what is not black.
        posed: the portrait posed like each driving frame, (F, H, W, 3); `known` (F, H, W) or (1, H, W) is what of it
            the portrait shows, by default all.
        source_latent: the portrait's, if it was encoded before.
    Raises: `UserError` if sizes or numbers of frames do not fit, or the VAE is not SD3's.
    """
    _check_pictures(source_1HWC, masked_FHWC)
    frames, height, width = masked_FHWC.shape[:3]
    if all(m is None for m in masks):
        union = _not_black(masked_FHWC) if union is None else union
        masks = [union] * len(REGIONS)
    planes = torch.stack([_mask(m, name, frames, (height, width)) for m, name in zip(masks, REGIONS, strict=True)], 1)
    return VideoSignals(
        source=encode_source(vae, source_1HWC) if source_latent is None else source_latent,
        masks=F.max_pool2d(planes, FACTOR),
        driving_pixels=_pixels(masked_FHWC, planes.amax(1)),
        posed_pixels=None if posed is None else _posed_pixels(posed, known, frames, (height, width)),
        vae=vae,
    )


def _pixels(pictures_FHWC: Tensor, mask_FHW: Tensor) -> Tensor:
    """(F, 4, H, W) uint8: a quarter of the memory, and what training has."""
    together = torch.cat([pictures_FHWC[..., :3].movedim(-1, 1).float(), mask_FHW[:, None].to(pictures_FHWC.device)], 1)
    return (together * 255).round().clamp(0, 255).to("cpu", torch.uint8)


def _posed_pixels(posed: Tensor, known: Tensor | None, frames: int, size: tuple[int, int]) -> Tensor:
    if len(posed) != frames:
        raise UserError(f"{frames} driving frames, but {len(posed)} posed pictures: give one for each")
    if tuple(posed.shape[1:3]) != size:
        (ph, pw), (h, w) = posed.shape[1:3], size
        raise UserError(
            f"the posed pictures are {pw} x {ph} pixels, the driving frames {w} x {h}: give one size to both"
        )
    return _pixels(posed, _mask(torch.ones(1, *size) if known is None else known, "posed pictures", frames, size))


def _check_pictures(source: Tensor, masked: Tensor) -> None:
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
