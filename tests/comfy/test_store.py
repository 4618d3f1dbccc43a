"""Finished segments as files: a run that was stopped goes on, and nothing of another run is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from svdp.errors import UserError
from svdp.model.config import FusionConfig, SegmentConfig

from .conftest import FRAMES, HISTORY, Noise_RandomNoise, load_model, make_signals, write_adapter

LENGTH = 2 * FRAMES + 1  # three segments
SEGMENTS = SegmentConfig(length=FRAMES, num_history=HISTORY)


@pytest.fixture(scope="module")
def files(base_path, tmp_path_factory) -> tuple[Path, Path]:
    return base_path, write_adapter(tmp_path_factory.mktemp("a") / "a.safetensors", lora=True)


def patched(files: tuple[Path, Path], strength: float = 1.0) -> Any:
    """The MODEL with the adapter."""
    from svdp.model.backends.comfy import apply_adapter, load_adapter

    return apply_adapter(load_model(files[0]), load_adapter(str(files[1]), "a"), strength)


def run(files: tuple[Path, Path], folder: Path | None, **changed: Any) -> Any:
    """A video as a ComfyUI that was just started makes it: everything is loaded anew, unless a model is given."""
    import comfy.samplers
    from svdp.model.backends.comfy_guider import SVDPGuider
    from svdp.model.backends.comfy_sampling import sample_video
    from svdp.model.flow import sigma_schedule

    settings = {"seed": 3, "frames": LENGTH, "strength": 1.0, "sampler": "euler", "steps": 2, "history_noise": 0.1}
    settings |= {"fusion": FusionConfig(history=1.5), "on_step": None, "patch": None, "signals": None} | changed
    model = settings.get("model") or patched(files, settings["strength"])
    if settings["patch"] is not None:
        model.set_model_attn1_patch(settings["patch"])
    signals = settings["signals"] or make_signals(LENGTH).take(0, settings["frames"])
    return sample_video(
        SVDPGuider(model, signals, settings["fusion"]),
        Noise_RandomNoise(settings["seed"]),
        comfy.samplers.sampler_object(settings["sampler"]),
        sigma_schedule(settings["steps"], 3.0),
        SEGMENTS,
        settings["history_noise"],
        folder=folder,
        on_step=settings["on_step"],
    )


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory) -> tuple[Any, Path]:
    """A run that nothing stopped, and its folder."""
    folder = tmp_path_factory.mktemp("kept") / "my run"
    return run(files, folder), folder


def stop_in_the_second_segment(step: int, *_: Any) -> None:
    import comfy.model_management as management

    if step == 2:
        management.interrupt_current_processing(True)


def kept(result: Any) -> list[bool]:
    return [r.kept for r in result.reports]


def test_a_stopped_run_goes_on_at_the_next_segment_with_the_same_latents(files, whole, tmp_path):
    import comfy.model_management as management

    with pytest.raises(management.InterruptProcessingException):
        run(files, tmp_path, on_step=stop_in_the_second_segment)
    assert len(list(tmp_path.iterdir())) == 1, "the finished segment is on the disk, the half done is not"
    seen: list[tuple[int, int]] = []
    resumed = run(files, tmp_path, on_step=lambda step, x0, x, total: seen.append((step, total)))
    assert torch.equal(resumed.latents, whole[0].latents)
    assert kept(resumed) == [True, False, False] and seen == [(n, 4) for n in range(4)]
    assert "1 kept from an earlier run" in resumed.text() and "segment 1: frames 0 to 3, kept" in resumed.text()


def test_a_finished_run_is_read_back_whole(files, whole):
    again = run(files, whole[1])
    assert torch.equal(again.latents, whole[0].latents) and all(kept(again))
    assert sorted(p.name[:6] for p in whole[1].iterdir()) == ["00001-", "00002-", "00003-"]


def test_a_model_that_stays_in_memory_finds_its_segments(files, tmp_path):
    """Its first run changes what the loaded model says of its precision, as that is a patch."""
    model = patched(files)
    model.add_object_patch("manual_cast_dtype", torch.float32)
    assert kept(run(files, tmp_path, model=model)) == [False] * 3
    assert kept(run(files, tmp_path, model=model)) == [True] * 3
    assert kept(run(files, tmp_path, model=model.clone())) == [True] * 3


def test_a_longer_video_begins_with_the_segments_of_a_shorter_one(files, whole, tmp_path):
    assert kept(run(files, tmp_path, frames=2 * FRAMES)) == [False, False]
    longer = run(files, tmp_path)
    assert kept(longer) == [True, True, False] and torch.equal(longer.latents, whole[0].latents)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 4},
        {"steps": 3},
        {"sampler": "heun"},
        {"strength": 0.9},
        {"history_noise": 0.0},
        {"fusion": FusionConfig(history=1.6)},
        {"patch": lambda q, k, v, *_: (q, k, v)},
    ],
    ids=lambda c: next(iter(c)),
)
def test_another_setting_makes_all_segments_anew(files, whole, changed, tmp_path):
    for path in whole[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert kept(run(files, tmp_path, frames=FRAMES, **changed)) == [False]


def test_a_driver_that_changes_later_keeps_what_was_before(files, whole, tmp_path):
    signals = make_signals(LENGTH)
    other = signals.masks.clone()
    other[FRAMES] = 0
    for path in whole[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert kept(run(files, tmp_path, signals=replace(signals, masks=other))) == [True, False, False]


def test_a_damaged_segment_is_made_again_and_a_full_disk_is_told(files, whole, tmp_path, monkeypatch):
    from svdp.model.backends import comfy_store

    for path in whole[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first = min(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:100])
    mended = run(files, tmp_path)
    assert kept(mended) == [False, True, True] and torch.equal(mended.latents, whole[0].latents)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(comfy_store, "save_file", full)
    with pytest.raises(UserError, match="free some space"):
        run(files, tmp_path, seed=5)
