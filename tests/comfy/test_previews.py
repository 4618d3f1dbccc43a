"""What is shown while a node samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from .test_animate import animate, media, nothing_kept

__all__ = ["media", "nothing_kept"]  # fixtures


@pytest.fixture
def shown(monkeypatch) -> list[Any]:
    """Every preview that a progress bar was given: (format, PIL picture, largest side)."""
    import comfy.utils

    pictures: list[Any] = []
    was = comfy.utils.ProgressBar.update_absolute

    def update(self, value, total=None, preview=None):
        if preview is not None:
            pictures.append(preview)
        was(self, value, total, preview)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    return pictures


def choose(monkeypatch, name: str) -> None:
    from comfy.cli_args import LatentPreviewMethod, args

    monkeypatch.setattr(args, "preview_method", getattr(LatentPreviewMethod, name))


def test_previews_are_pictures_and_the_last_is_of_the_result(media, shown, monkeypatch):
    choose(monkeypatch, "Auto")
    images = animate(*media, max_frames=9)[1]  # two segments
    assert len(shown) == 2 * 2 + 2, "every step of both segments, and every part of the finished frames"
    side = images.shape[1]
    assert {(kind, picture.size) for kind, picture, _ in shown} == {("JPEG", (side, side))}
    first, last = ([np.abs(np.asarray(p) / 255 - images[t].numpy()).mean() for _, p, _ in shown] for t in (0, 8))
    assert first[1] < 0.01 and last[3] < 0.01, "the last step of each segment shows its first frame"
    assert first[4] < 1e-6 and last[5] < 1e-6, "the node is left with finished frames"
    assert first[3] > 0.01 and last[1] > 0.01, "the segments begin with frames that differ"


def test_no_previews_where_they_are_off_and_coarse_ones_where_those_are_chosen(media, shown, monkeypatch):
    choose(monkeypatch, "NoPreviews")
    side = animate(*media, max_frames=2)[1].shape[1]
    assert shown == []
    choose(monkeypatch, "Latent2RGB")
    animate(*media, max_frames=2, seed=5)
    assert [p.size for _, p, _ in shown] == [(side // 8, side // 8)] * 2 + [(side, side)]


def test_latents_of_any_size_and_precision_are_shown(comfy_on_path):
    from svdp.nodes.previews import TinyPreviewer

    picture = TinyPreviewer().decode_latent_to_preview(torch.zeros(3, 16, 5, 7, dtype=torch.bfloat16))
    assert picture.size == (56, 40)
