"""Four-branch signal fusion with pruning (paper, signal fusion).

z = u + ls (s - u) + ld (d - s) + lp (p - d), with u: nothing, s: source, d: source + driving, p: source + driving +
history. It is linear, so a branch whose coefficient is zero everywhere is not computed.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Literal

import torch
from torch import Tensor

from .config import FusionConfig
from .flow import schedule_progress

Branch = Literal["u", "s", "d", "p"]
BRANCHES: tuple[Branch, ...] = ("u", "s", "d", "p")
Coefficient = float | Tensor
_LEAST_SPREAD = 1e-6  # of a channel of latents; one that is the same everywhere stays so


def driving_map(masks_FRHW: Tensor, cfg: FusionConfig) -> Tensor | None:
    """Strength of the driver at each place (F, 1, H, W): 1 outside the regions, the region's strength inside
    (the strongest where regions overlap). None if all strengths are 1."""
    strengths = cfg.region_strengths
    if all(s == 1.0 for s in strengths):
        return None
    inside = masks_FRHW.float()
    weighted = torch.stack([inside[:, r] * s for r, s in enumerate(strengths)], 1).amax(1, keepdim=True)
    covered = inside.amax(1, keepdim=True)
    return (1 - covered) + weighted


def fusion_coefficients(
    cfg: FusionConfig, sigma: float, shift: float, has_history: bool, strength_map: Tensor | None = None
) -> dict[Branch, Coefficient]:
    """Coefficient of each branch at noise level `sigma`: u: 1 - ls, s: ls - ld, d: ld - lp, p: lp; zeros left out.

    Without history p equals d, so its coefficient moves to d. `strength_map` (F, 1, H, W) multiplies ld.
    """
    progress = schedule_progress(sigma, shift)

    def active(weight: float, span: tuple[float, float]) -> float:
        return weight if span[0] <= progress <= span[1] else 0.0

    ls = active(cfg.source, cfg.source_range)
    ld: Coefficient = active(cfg.driving, cfg.driving_range)
    lp = active(cfg.history, cfg.history_range)
    if strength_map is not None:
        ld = ld * strength_map
    parts: dict[Branch, Coefficient] = {"u": 1 - ls, "s": ls - ld, "d": ld - lp, "p": lp}
    if not has_history:
        parts["d"], parts["p"] = ld, 0.0
    return {branch: c for branch, c in parts.items() if _is_nonzero(c)}


def _is_nonzero(coefficient: Coefficient) -> bool:
    return bool((coefficient != 0).any()) if isinstance(coefficient, Tensor) else coefficient != 0


def fuse(velocities: Mapping[Branch, Tensor], coefficients: Mapping[Branch, Coefficient]) -> Tensor:
    """Sum of coefficient times velocity (F, C, H, W) over the branches that were computed, in float32."""
    total: Tensor | None = None
    for branch, coefficient in coefficients.items():
        v = velocities[branch].float()
        term = v * (coefficient.to(v) if isinstance(coefficient, Tensor) else coefficient)
        total = term if total is None else total + term
    assert total is not None, "at least one branch has a nonzero coefficient: they sum to 1"
    return total


def by_signals(branches: Container[str]) -> list[Branch]:
    """Those of the four branches that are among `branches`: the one with the fewest signals first."""
    return [b for b in BRANCHES if b in branches]


def rescale_contrast(fused_FCHW: Tensor, predictions: Mapping[Branch, Tensor], amount: float) -> Tensor:
    """Fused clean latents with their contrast brought back by `amount` (0 to 1) to that of branch d.

    Weights above 1 widen the spread of a prediction, at last to hard and oversaturated pictures. This is the rescaling
    of Lin et al. 2024 (arXiv 2305.08891, section 3.4), but of each channel of each frame by itself and around its mean.
    `predictions` are the branches' clean latents (F, C, H, W). Branch p, which is sharper, is taken only where d was
    not computed: otherwise contrast would jump where history begins.
    """
    if not amount or len(predictions) == 1:
        return fused_FCHW
    plain = predictions["d" if "d" in predictions else by_signals(predictions)[-1]].float()
    mean = fused_FCHW.mean((2, 3), keepdim=True)
    ratio = plain.std((2, 3), keepdim=True) / fused_FCHW.std((2, 3), keepdim=True).clamp(min=_LEAST_SPREAD)
    return mean + (fused_FCHW - mean) * (1 - amount + amount * ratio)
