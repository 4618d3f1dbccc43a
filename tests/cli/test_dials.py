"""Dials that cannot work are refused when they are read: not finite, below or above what has a meaning, of no kind."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from svdp.animation.config import AnimateConfig, WeightFiles
from svdp.errors import UserError

NUMBERS = {  # dial -> values that have no meaning
    "strength": (-0.1, 1e30), "steps": (0, 10**9), "seed": (-1, 2**64), "fusion_source": (-1, 1e9),
    "fusion_driving": (-1e-3, 101), "fusion_history": (-5, 1e300), "fusion_rescale": (-0.1, 1.1),
    "dilation": (-1, 1e6), "reference": (-1, 10**12), "resolution": (0, 10**9), "crop_scale": (0.5, 5),
    "segment_length": (0, 10**9), "history": (-1, 10**9), "history_noise": (-0.1, 2), "start_level": (0, 1.5),
    "detail": (-1, 2), "max_side": (0, 10**9), "start": (-1, 10**12), "max_frames": (0, 10**12),
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> AnimateConfig:
    """Settings that are sound."""
    files = WeightFiles(base=tmp_path, adapter=tmp_path, autoencoder=tmp_path)
    return AnimateConfig(source=tmp_path, driving=tmp_path, output=tmp_path, weights=files)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_without_a_meaning(name: str, settings: AnimateConfig) -> None:
    for value in (*NUMBERS[name], float("nan"), float("inf"), -float("inf"), "1", True, [1]):
        with pytest.raises(UserError, match=f"^{name} must be a") as caught:
            replace(settings, **{name: value})  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("solver", "magic"), ("select_face", "nobody"), ("source_face", "-1"), ("regions", ("chin",)), ("regions", ()),
     ("motion", "up"), ("dtype", "int8"), ("resolution", 100), ("draft", "yes"), ("device", 3)],
)  # fmt: skip
def test_choices_that_do_not_exist(name: str, value: object, settings: AnimateConfig) -> None:
    with pytest.raises(UserError, match=name.rstrip("s")):
        replace(settings, **{name: value})  # type: ignore[arg-type]


def test_the_command_line_refuses_them_before_anything_is_read(svdp, tmp_path: Path) -> None:
    files = ("-s", tmp_path / "no.png", "-d", tmp_path / "no.mp4", "-o", tmp_path / "o.mp4")
    for option in ("--strength", "--fusion-source", "--crop-scale", "--dilation", "--detail", "--history-noise"):
        code, said = svdp("animate", *files, option, "nan")
        assert code == 2 and option.strip("-").split("-")[0] in said  # by typer, or by the settings
    assert list(tmp_path.iterdir()) == []


def test_float32_is_advised_only_where_it_helps(settings: AnimateConfig, tiny_weights: Path) -> None:
    from svdp.animation.config import find_weights
    from svdp.animation.pipeline import decode, load_model

    model = load_model(replace(settings, weights=find_weights(tiny_weights), device="cpu", dtype="float32"))
    latents = torch.full((1, 16, 8, 8), float("nan"))
    with pytest.raises(UserError, match=r"not a number in torch\.float32: these weights cannot do it"):
        next(decode(model, latents))
    with pytest.raises(UserError, match="run again with --dtype float32"):
        next(decode(replace(model, dtype=torch.bfloat16), latents))


def test_float16_on_a_processor_warns_and_offers_the_other(caplog: pytest.LogCaptureFixture) -> None:
    from svdp.animation.pipeline import choose_dtype

    with caplog.at_level(logging.WARNING, "svdp"):
        assert choose_dtype("float16", torch.device("cpu")) == torch.float16
        assert "--dtype float32 is faster" in caplog.text
        caplog.clear()
        choose_dtype("float32", torch.device("cpu"))
        choose_dtype("auto", torch.device("cpu"))
        assert not caplog.text
