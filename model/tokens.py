"""Latents to tokens, and the choice of the driving tokens that a region touches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def patchify(latents_MCHW: Tensor, patch: int) -> Tensor:
    """(M, C, H, W) -> (M, N, C * patch * patch), row by row, channels first in a token."""
    return rearrange(latents_MCHW, "m c (h p) (w q) -> m (h w) (c p q)", p=patch, q=patch)


def token_mask(masks_FRHW: Tensor, patch: int) -> Tensor:
    """Region masks (F, R, H, W) at latent size -> which tokens any region touches, (F, N) bool."""
    touched = F.max_pool2d(masks_FRHW.float().amax(1, keepdim=True), patch)
    return touched.flatten(1) > 0


def token_map(map_FHW: Tensor, patch: int) -> Tensor:
    """Mean of a map (F, H, W) over each patch: (F, N, 1)."""
    return F.avg_pool2d(map_FHW[:, None].float(), patch).flatten(1)[..., None]


def select_tokens(mask_FN: Tensor, multiple: int = 8, width: int | None = None, least: int = 0) -> Tensor:
    """Indices (F, K) of the tokens to keep, K constant: the most that any frame needs, rounded up to `multiple`.

    `least`: as if some frame needed so many (processes that share a batch agree on K that way).

    Frames that need fewer are filled with their unmasked tokens nearest to the region (index order where a frame has
    no region at all), so that no attention mask is needed. Indices are sorted in each frame. At least one group is
    kept, even if no region touches anything. `width` is the picture's width in tokens (default: a square picture).
    """
    num_frames, num_tokens = mask_FN.shape
    needed = max(int(mask_FN.sum(1).max()) if num_frames else 0, least)
    keep = min(num_tokens, max(1, -(-needed // multiple)) * multiple)
    distance = _distance_to_mask(mask_FN, width or round(num_tokens**0.5))
    return distance.argsort(dim=1, stable=True)[:, :keep].sort(dim=1).values


def _distance_to_mask(mask_FN: Tensor, columns: int) -> Tensor:
    """Distance (F, N) on the grid of every token to the nearest masked one; 0 inside, constant without a mask."""
    num_tokens = mask_FN.shape[1]
    index = torch.arange(num_tokens, device=mask_FN.device)
    yx = torch.stack([index // columns, index % columns], 1).float()
    pairwise_NN = torch.cdist(yx, yx)
    big = float(num_tokens * 2)
    distance = torch.where(mask_FN[:, None, :], pairwise_NN, big).amin(-1)
    return distance.masked_fill(mask_FN, 0.0)


def gather_tokens(tokens_FND: Tensor, index_FK: Tensor) -> Tensor:
    """Kept tokens (F, K, D) of (F, N, D) or (1, N, D)."""
    tokens = tokens_FND.expand(index_FK.shape[0], -1, -1)
    return tokens.gather(1, index_FK[..., None].expand(-1, -1, tokens.shape[-1]))
