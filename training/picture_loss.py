"""Losses on decoded pictures: errors, edges, and features of the autoencoder's encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.autoencoder import TinyAutoencoder

FEATURE_LAYERS = (2, 6, 10)  # of the autoencoder's encoder


def charbonnier(error: Tensor, weight: Tensor | float = 1.0, eps: float = 1e-3) -> Tensor:
    """Weighted mean of sqrt(e^2 + eps^2): L1 with a smooth foot."""
    return (weight * torch.sqrt(error.float().square() + eps * eps)).mean()


def gradient_loss(error: Tensor, weight: Tensor | None = None) -> Tensor:
    """Charbonnier of the horizontal and vertical differences of an error (..., H, W): edges must be where they are."""
    across, down = (1.0, 1.0) if weight is None else (weight[..., 1:], weight[..., 1:, :])
    return charbonnier(error.diff(dim=-1), across) + charbonnier(error.diff(dim=-2), down)


def edge_strength_loss(made: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Charbonnier of mean absolute differences in blocks of 8 x 8 pixels: as sharp as the truth, wherever edges are.

    Pictures (B, 3, H, W) in 0 to 1, weights (B, 1, H, W).
    """

    def strength(pictures: Tensor) -> Tensor:
        across = F.avg_pool2d(pictures.diff(dim=-1).abs(), 8, 4, ceil_mode=True)
        return across + F.avg_pool2d(pictures.diff(dim=-2).abs().mT, 8, 4, ceil_mode=True).mT

    error = strength(made) - strength(truth)
    return charbonnier(error, F.interpolate(weight, error.shape[-2:], mode="area"))


def feature_loss(autoencoder: TinyAutoencoder, made: Tensor, truth: Tensor) -> Tensor:
    """Charbonnier of the frozen encoder's features of two pictures (B, 3, H, W)."""
    pairs = zip(_features(autoencoder, made), _features(autoencoder, truth), strict=True)
    return torch.stack([charbonnier(a - b) for a, b in pairs]).sum()


def _features(autoencoder: TinyAutoencoder, pictures: Tensor) -> list[Tensor]:
    """Features of unit length in each place, of some of the encoder's layers."""
    found, x = [], pictures
    for number, layer in enumerate(autoencoder.taesd_encoder[: max(FEATURE_LAYERS) + 1]):
        x = layer(x)
        if number in FEATURE_LAYERS:
            found.append(F.normalize(x.float(), dim=1, eps=1e-3))
    return found
