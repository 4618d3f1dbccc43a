"""Rectified-flow loss (Esser et al. 2024, arXiv 2403.03206) with more weight on the driver's regions."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.flow import shift_sigma
from .config import LossSettings
from .schedule import stratified_normal

NUM_SIGMA_BINS = 5


def draw_sigmas(count: int, settings: LossSettings, generator: torch.Generator) -> Tensor:
    """Noise levels (count,) of a batch: logit-normal, stratified over the batch, then shifted."""
    normal = stratified_normal(count, generator)
    return shift_sigma(torch.sigmoid(normal * settings.std + settings.mean), settings.shift)


def region_weight_map(regions: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Weights (B, F, 1, h, w) of the squared error, of mean 1 in every sample.

    `regions` (B, F, R, h, w) bool at latent size: 1 outside, the largest weight of the regions that cover a place
    inside. Scaling each sample to mean 1 makes close and distant faces count alike.
    """
    scale = torch.tensor(weights, dtype=torch.float32, device=regions.device).reshape(1, 1, -1, 1, 1)
    inside = torch.where(regions, scale, 0.0).amax(2, keepdim=True)
    weight = torch.where(regions.any(2, keepdim=True), inside, 1.0)
    return weight / weight.mean(dim=(1, 2, 3, 4), keepdim=True)


def flow_loss(
    velocity: Tensor, target: Tensor, sigmas: Tensor, weight: Tensor | None, weighting: str = "none"
) -> tuple[Tensor, Tensor]:
    """Loss (scalar, to differentiate) and error of each sample (B,), detached and unweighted.

    `velocity`, `target` (B, F, C, h, w) float32; `sigmas` (B,); `weight` as from `region_weight_map`.
    `weighting="sigma"` multiplies by sigma squared: the error of the predicted x0 instead of the velocity's.
    """
    error = (velocity.float() - target).square()
    per_sample = error.detach().mean(dim=(1, 2, 3, 4))
    weighted = error if weight is None else error * weight
    if weighting == "sigma":
        weighted = weighted * sigmas.square().reshape(-1, 1, 1, 1, 1)
    return weighted.mean(), per_sample


def region_errors(velocity: Tensor, target: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error inside and outside the regions, over the whole batch (two scalars)."""
    error = (velocity.float() - target).square().mean(2, keepdim=True)
    inside = regions.any(2, keepdim=True).to(error.dtype)
    outside = 1.0 - inside
    return (error * inside).sum() / inside.sum().clamp(min=1), (error * outside).sum() / outside.sum().clamp(min=1)


def sigma_bin(sigmas: Tensor) -> Tensor:
    """Which of `NUM_SIGMA_BINS` equal bins of [0, 1] a noise level falls into, for the log."""
    return (sigmas * NUM_SIGMA_BINS).long().clamp(0, NUM_SIGMA_BINS - 1)
