"""A discriminator of picture patches (Isola et al. 2017), and the loss that it gives the model."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, autocast, nn
from torch.nn import Conv2d
from torch.nn import functional as F

FEATURE_MATCHING = 2.0  # weight of the features' L1 beside the score


class Discriminator(nn.Module):
    """Scores patches of pictures and their masks: real or made. Its layers have spectral normalisation."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = (4, width, 2 * width, 4 * width, 4 * width)
        norm = nn.utils.parametrizations.spectral_norm
        self.layers = nn.ModuleList(
            norm(Conv2d(a, b, 4, 2 if n < 3 else 1, 1)) for n, (a, b) in enumerate(pairwise(widths))
        )
        self.last = norm(Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, pictures: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores (B, 1, h, w) of (B, 3, H, W) pictures and their (B, 1, H, W) masks, and all layers' features."""
        x, features = torch.cat([pictures, mask], 1) * 2 - 1, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.last(x), features


def discriminator_loss(
    discriminator: Discriminator, made: Tensor, truth: Tensor, mask: Tensor, region_weight: float
) -> Tensor:
    """Hinge loss of the discriminator on made and true pictures (B, 3, H, W); no gradient reaches `made`."""
    with autocast(made.device.type, torch.bfloat16):
        high, low = discriminator(truth, mask)[0].float(), discriminator(made.detach(), mask)[0].float()
    weight = _patch_weight(mask, high, region_weight)
    return (weight * (F.relu(1 - high) + F.relu(1 + low))).mean() / weight.mean()


def generator_loss(
    discriminator: Discriminator, made: Tensor, truth: Tensor, mask: Tensor, region_weight: float
) -> Tensor:
    """What the model minimises: how fake its pictures look, and how far their features are from the truth's."""
    discriminator.requires_grad_(False)
    with autocast(made.device.type, torch.bfloat16):
        score, found = discriminator(made, mask)
        wanted = discriminator(truth, mask)[1]
    discriminator.requires_grad_(True)
    match = torch.stack([F.l1_loss(a.float(), b.float().detach()) for a, b in zip(found, wanted, strict=True)]).sum()
    weight = _patch_weight(mask, score, region_weight)
    return -(weight * score.float()).mean() / weight.mean() + FEATURE_MATCHING * match


def balance(adversarial: Tensor, others: Tensor, made: Tensor) -> Tensor:
    """The factor that makes both losses' gradients in `made` equally large (Esser et al. 2021, equation 7)."""
    own = torch.autograd.grad(adversarial, made, retain_graph=True)[0].norm()
    return torch.autograd.grad(others, made, retain_graph=True)[0].norm() / (own + 1e-8)


def _patch_weight(mask: Tensor, scores: Tensor, region_weight: float) -> Tensor:
    return 1 + (region_weight - 1) * F.interpolate(mask, scores.shape[-2:], mode="area")
