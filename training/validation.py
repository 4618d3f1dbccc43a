"""Held-out quality of the posed model: PSNR and sharpness of its pictures beside those of the posed source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, autocast
from torch.nn import functional as F

from ..model.autoencoder import TinyAutoencoder
from ..model.backends.diffusers import Denoiser
from ..model.flow import sample_euler, sigma_schedule
from .data.store import SampleBatch

STEPS = (1, 2, 4)  # of sampling
SHIFT = 3.0


@torch.no_grad()
def validate(
    denoiser: Denoiser, autoencoder: TinyAutoencoder, batches: Sequence[tuple[str, SampleBatch]], folder: Path
) -> dict[str, float]:
    """Means by kind of sample and number of steps, as in "photo/1"; a sheet of each kind is written to `folder`.

    The numbers are PSNR in dB and "/sharp", the detail relative to the truth's. "/in" is inside the driver's regions.
    "draft" is the posed source, "draft_ae" the same through the autoencoder.
    """
    values: dict[str, list[float]] = {}
    chance = torch.Generator().manual_seed(7)
    folder.mkdir(exist_ok=True)
    for name, batch in batches:
        noise = torch.randn(batch.target.shape, generator=chance).to(batch.target.device)
        truth = batch.target_pixels.flatten(0, 1).float() / 255
        mask = batch.driving_pixels[:, :, 3:].flatten(0, 1)
        rows = {
            "draft": batch.posed_pixels[:, :, :3].flatten(0, 1),
            "draft_ae": decode(autoencoder, batch.posed),
        }
        for steps in STEPS:
            rows[f"{steps}"] = decode(autoencoder, sample(denoiser, batch, noise, steps))
        for key, made in rows.items():
            for measure, value in _quality(made, truth, mask).items():
                values.setdefault(f"{name}/{key}{measure}", []).append(value)
        write_sheet(folder / f"{name}.jpg", truth, *rows.values())
    return {k: round(float(np.mean(v)), 3) for k, v in values.items()}


def sample(denoiser: Denoiser, batch: SampleBatch, noise: Tensor, steps: int, driver: bool = True) -> Tensor:
    """Clean latents (B, F, 16, h, w) in a few Euler steps from pure noise, branch d."""
    conditions = batch.conditions(driver, denoiser.adapter.config.posed)

    def velocity(z: Tensor, sigma: float) -> Tensor:
        with autocast(z.device.type, torch.bfloat16):
            level = torch.full((len(z),), sigma, device=z.device)
            return denoiser(z, level, conditions=conditions, branch="d").float()

    return sample_euler(velocity, noise, sigma_schedule(steps, SHIFT))


def decode(autoencoder: TinyAutoencoder, latents: Tensor) -> Tensor:
    """Pictures (B * F, 3, H, W) in 0 to 1 of latents (B, F, 16, h, w)."""
    with autocast(latents.device.type, torch.bfloat16):
        return autoencoder.decode(latents.flatten(0, 1)).float()


def _quality(made: Tensor, truth: Tensor, mask: Tensor) -> dict[str, float]:
    gap = (made - truth).square()
    inside = (gap * mask).sum() / (3 * mask.sum()).clamp(min=1)
    return {
        "": -10 * math.log10(float(gap.mean()) + 1e-9),
        "/in": -10 * math.log10(float(inside) + 1e-9),
        "/sharp": float(detail(made) / detail(truth)),
        "/sharp/in": float(detail(made, mask) / detail(truth, mask)),
    }


def detail(pictures: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference from the 3 x 3 mean of the grey pictures, inside the mask if there is one."""
    grey = pictures.mean(1, keepdim=True)
    found = (grey - F.avg_pool2d(grey, 3, 1, 1)).abs()
    return found.mean() if mask is None else (found * mask).sum() / mask.sum().clamp(min=1)


def write_sheet(path: Path, *rows: Tensor) -> None:
    """A JPEG with at most eight pictures of each row (B, 3, H, W) in 0 to 1."""
    shown = [torch.cat(list(row[:: max(1, len(row) // 8)][:8].clamp(0, 1)), -1) for row in rows]
    sheet = (torch.cat(shown, -2).permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    cv2.imwrite(str(path), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
