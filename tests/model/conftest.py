"""A tiny real SD3.5-shaped base (dual attention in its first block) and an adapter whose every part is active."""

from __future__ import annotations

import pytest
import torch
from svdp.model.adapter import Adapter
from svdp.model.backends.diffusers import Denoiser, build_transformer
from svdp.model.config import AdapterConfig, BaseArchitecture
from svdp.model.streams import Conditions

TINY = BaseArchitecture(
    width=32, depth=3, heads=2, dual_blocks=(0,), channels=4, table_size=16, context_dim=12, pooled_dim=8
)
FRAMES, HISTORY, SIDE = 4, 2, 8  # frames of a segment, history frames, latent size (4 x 4 tokens)


def tiny_denoiser(trained: bool = True, **config: object) -> Denoiser:
    """Base with random weights and an adapter; `trained` fills the parts that are zero at start."""
    torch.manual_seed(0)
    base = build_transformer(TINY)
    torch.manual_seed(1)
    for p in base.parameters():
        torch.nn.init.normal_(p, std=0.15)
    settings = {"conditioning": "cached", "driving": "both", **config}
    adapter = Adapter(AdapterConfig(base=TINY, video_head_dim=8, **settings))  # type: ignore[arg-type]
    if trained:
        for p in adapter.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return Denoiser(base, adapter).train(False)


@pytest.fixture(params=["cached", "joint"])
def conditioning(request: pytest.FixtureRequest) -> str:
    """Both forms of conditioning."""
    return request.param


@pytest.fixture
def noisy() -> torch.Tensor:
    """z (1, F, C, H, W)."""
    return torch.randn(1, FRAMES, TINY.channels, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def conditions() -> Conditions:
    """Source, driver (6 of 16 tokens kept, other ones in each frame) and history."""
    g = torch.Generator().manual_seed(3)
    shape = (TINY.channels, SIDE, SIDE)
    index = torch.stack([torch.randperm(16, generator=g)[:6].sort().values for _ in range(FRAMES)])
    return Conditions(
        source=torch.randn(1, *shape, generator=g),
        driving=torch.randn(1, FRAMES, *shape, generator=g),
        driving_index=index[None],
        history=torch.randn(1, HISTORY, *shape, generator=g),
    )
