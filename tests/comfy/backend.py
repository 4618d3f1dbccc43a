"""What the tests of the backend share: applying an adapter, sampling, text conditioning."""

from __future__ import annotations

from typing import Any

import torch
from svdp.model.config import FusionConfig
from torch import Tensor

from .conftest import FRAMES, SEED

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
PLAIN = FusionConfig(source=1.0, driving=1.0, history=1.0)  # branch d alone, with coefficient 1
THREE = FusionConfig(source=2.0, driving=2.5)  # u, s and d


def apply(model: Any, path: Any, strength: float = 1.0) -> Any:
    from svdp.model.backends.comfy import apply_adapter, load_adapter

    return apply_adapter(model, load_adapter(str(path), path.name), strength)


def text(seed: int = 5, **extra: Any) -> list[Any]:
    """CONDITIONING as a text encoder gives it."""
    g = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 5, 24, generator=g), {"pooled_output": torch.randn(1, 16, generator=g), **extra}]]


def noise() -> Tensor:
    from svdp.model.segments import frame_noise

    return frame_noise(range(FRAMES), (16, 8, 8), SEED)


def sample(guider: Any, sampler: Any, sigmas: Tensor, callback: Any = None) -> Tensor:
    z = noise()
    return guider.sample(z, torch.zeros_like(z), sampler, sigmas, callback=callback, disable_pbar=True, seed=SEED)
