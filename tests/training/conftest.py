"""A tiny real model and synthetic shards: everything that a training run needs, in a few hundred kilobytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState

FRAMES, SIDE = 9, 8  # of a clip; latent size (4 x 4 tokens)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps precision and device for the life of a process: forget them after each test."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def synthetic_clip(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A clip whose target moves and whose regions sit in three places, all from random numbers."""
    still = rng.standard_normal((16, SIDE, SIDE))
    motion = rng.standard_normal((16, SIDE, SIDE))
    phase = np.sin(np.linspace(0, 3, FRAMES))[:, None, None, None]
    regions = np.zeros((FRAMES, 3, SIDE, SIDE), np.uint8)
    regions[:, 0, 1:3, 1:4] = regions[:, 1, 3:5, 3:5] = regions[:, 2, 5:7, 3:6] = 255
    shown = regions.any(1, keepdims=True)
    target = still + phase * motion
    driving = np.where(shown, phase * rng.standard_normal((16, SIDE, SIDE)), -0.5)
    return {"sources": still[None] + 0.1 * motion, "target": target, "driving": driving, "regions": regions}


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with 6 clips to train on and 3 held out."""
    from svdp.training.data.shards import write_shard

    root = tmp_path_factory.mktemp("data")
    for split, count, seed in (("train", 6, 0), ("heldout", 3, 1)):
        (root / split).mkdir()
        rng = np.random.default_rng(seed)
        clips = [(f"clip-{i:03d}", synthetic_clip(rng), {"provider": "synthetic"}) for i in range(count)]
        write_shard(root / split / "clips-0000.tar", clips)
    return root


def tiny_table(root: Path, **changes: Any) -> dict[str, Any]:
    """The table of a configuration: width 32, 2 blocks, two stages, 6 steps, float32."""
    architecture = {"width": 32, "depth": 2, "heads": 2, "dual_blocks": [0], "table_size": 16}
    with_history = {"batch": 2, "frames": 4, "history": 2, "history_noise": 0.2}
    table: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "steps": 6,
        "precision": "no",
        "base": {"architecture": {**architecture, "context_dim": 8, "pooled_dim": 8}},
        "adapter": {"gate": "open", "video_head_dim": 8, "segment_length": 4, "num_history": 2, "resolution": 64},
        "data": {"root": str(root)},
        "optim": {"lr": 2e-3, "warmup": 2},
        "stage": [
            {"until": 0.5, "batch": 4, "frames": 3, "strides": [1, 2]},
            {**with_history, "branches": {"u": 0.1, "s": 0.1, "d": 0.3, "p": 0.5}},
        ],
        "watch": {"log_every": 2, "probe_every": 2, "probe_clips": 3, "grid_minutes": 0.0, "checkpoint_minutes": 60.0},
    }
    for key, value in changes.items():
        table[key] = {**table[key], **value} if isinstance(table.get(key), dict) else value
    return table
