"""Evaluate in real ComfyUI: what is the same scores full marks, what stands still does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from svdp.errors import UserError

FRAMES = 26  # from 24 on there are intervals


@pytest.fixture(scope="module")
def clip(comfy_on_path) -> torch.Tensor:
    """Frames of the bundled clip."""
    from svdp.nodes.examples import SVDPExampleMedia

    return SVDPExampleMedia.execute("fair hair", "woman talking").args[1].get_components().images[:FRAMES]


def evaluate(result: torch.Tensor, source: torch.Tensor, driver: torch.Tensor, **more: Any) -> tuple[Any, ...]:
    from svdp.nodes.evaluate import SVDPEvaluate

    return SVDPEvaluate.execute(result, source, driver, 30.0, 128, 16, **more).args


def test_the_driver_itself_is_a_perfect_result(clip):
    table, plot = evaluate(clip, clip[:1], clip, target=clip)
    lines = table.splitlines()
    assert any(line.startswith("yaw: result 1.00 [1.00, 1.00]") for line in lines)
    (psnr,) = (line for line in lines if line.startswith("PSNR"))
    assert "result 100.0" in psnr and "static copy 100.0" not in psnr
    assert table.startswith("as many frames as the driver")
    assert plot.shape[0] == 1 and plot.shape[3] == 3 and 0 <= float(plot.min()) and float(plot.max()) <= 1
    assert float((plot - plot[:, :1, :1]).abs().mean()) > 0.01  # something is drawn


def test_what_does_not_fit_is_said_in_words(clip):
    with pytest.raises(UserError, match="one picture, got 2"):
        evaluate(clip, clip[:2], clip)
    with pytest.raises(UserError, match="neither square nor as large"):
        evaluate(clip[:2, :200], clip[:1], clip[:2])
