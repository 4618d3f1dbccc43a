"""Stages on coarse latents: squares of them averaged, a quarter of the tokens at side 2, so four times as many frames.

What goes where is learnt at small size first, as progressive growing does with pixels (Karras et al. 2018, arXiv
1710.10196). The positional table is averaged alike, so that every place keeps its coordinates when the latents become
fine, and noise, source and driver their distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import UserError
from ..model.hosts.diffusers import Denoiser
from .dataset import ClipBatch


def require_coarse(side: int, denoiser: Denoiser, factor: int) -> None:
    """Raise `UserError` if latents of `side` or the base's positional table cannot be averaged over `factor`."""
    base = denoiser.host.architecture
    if side % (factor * base.patch) or (base.table_size - side // base.patch) % (2 * factor):
        raise UserError(
            f"[[stage]] coarse = {factor} does not divide latents of {side} in the middle of a positional table of "
            f"{base.table_size} patches: choose another factor, or a table_size that it divides"
        )


def coarsen(batch: ClipBatch, factor: int) -> ClipBatch:
    """The batch with latents averaged over squares of `factor`; a region covers a square if it covers part of it."""
    if factor == 1:
        return batch
    latents = {k: _averaged(getattr(batch, k), factor) for k in ("target", "source", "driving", "history")}
    flat = batch.regions.float().flatten(0, 1)
    regions = F.max_pool2d(flat, factor).unflatten(0, batch.regions.shape[:2]) > 0
    return replace(batch, **latents, regions=regions)


def _averaged(x: Tensor, factor: int) -> Tensor:
    """(..., C, h, w) -> (..., C, h / factor, w / factor), also of no frames at all."""
    return x.unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor)).mean((-3, -1))


@contextmanager
def coarse_places(denoiser: Denoiser, factor: int) -> Iterator[None]:
    """Inside, the base's positional table is averaged over squares of `factor`."""
    if factor == 1:
        yield
        return
    embed, host = cast(Any, denoiser.transformer).pos_embed, denoiser.host
    table, size, shape = embed.pos_embed, embed.pos_embed_max_size, host.architecture
    square = rearrange(table, "1 (h w) d -> 1 d h w", h=size)
    embed.pos_embed = rearrange(F.avg_pool2d(square, factor), "1 d h w -> 1 (h w) d")
    embed.pos_embed_max_size = size // factor
    host.architecture, host.coarse = replace(shape, table_size=size // factor), factor
    try:
        yield
    finally:
        embed.pos_embed, embed.pos_embed_max_size, host.architecture, host.coarse = table, size, shape, 1
