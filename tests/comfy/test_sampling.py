"""Videos of any length in ComfyUI: segments, noise per frame, progress, resuming, and other samplers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from svdp.errors import UserError
from svdp.model.config import FusionConfig, SegmentConfig
from torch import Tensor

from .conftest import FRAMES, HISTORY, SEED, Noise_RandomNoise, load_model, make_signals, write_adapter

LENGTH = 2 * FRAMES + 1  # three segments, the last of one frame
SEGMENTS = SegmentConfig(length=FRAMES, num_history=HISTORY)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def guider(comfy_on_path, base_path, tmp_path_factory) -> Any:
    """A guider over three segments."""
    from svdp.model.backends.comfy import apply_adapter, load_adapter
    from svdp.model.backends.comfy_guider import SVDPGuider

    path = write_adapter(tmp_path_factory.mktemp("a") / "a.safetensors")
    model = apply_adapter(load_model(base_path), load_adapter(str(path), path.name))
    return SVDPGuider(model, make_signals(LENGTH), FusionConfig(history=1.5))


@pytest.fixture
def video(guider, random_noise, euler, sigmas):
    """Samples a video with the given changes."""
    from svdp.model.backends.comfy_sampling import sample_video

    def run(changed: Any = None, segments: SegmentConfig = SEGMENTS, noise: Any = None, **options: Any) -> Any:
        return sample_video(changed or guider, noise or random_noise, euler, sigmas, segments, **options)

    return run


@pytest.fixture(scope="module")
def whole(guider) -> Any:
    """The whole video, sampled once."""
    import comfy.samplers
    from svdp.model.backends.comfy_sampling import sample_video
    from svdp.model.flow import sigma_schedule

    sampler = comfy.samplers.sampler_object("euler")
    return sample_video(guider, Noise_RandomNoise(SEED), sampler, sigma_schedule(3, 3.0), SEGMENTS)


def test_all_frames_are_made_and_the_last_segment_is_short(whole):
    assert whole.latents.shape == (LENGTH, 16, 8, 8)
    assert torch.isfinite(whole.latents).all()
    assert [r.segment.length for r in whole.reports] == [FRAMES, FRAMES, 1]
    assert [r.branches for r in whole.reports] == [("u", "s", "d"), ("u", "s", "d", "p"), ("u", "s", "d", "p")]


def test_the_report_names_every_segment(whole):
    lines = whole.text().splitlines()
    assert lines[0].startswith(f"{LENGTH} frames, 3 segments")
    assert "frames 4 to 7, 2 of history, branches u s d p" in lines[2]
    assert whole.reports[0].drift == 0 and whole.reports[1].drift > 0


def test_the_beginning_does_not_depend_on_the_length(guider, video, whole):
    from svdp.model.backends.comfy_guider import SVDPGuider

    shorter = SVDPGuider(guider.model_patcher, guider.signals.take(0, FRAMES + 2), guider.fusion)
    assert torch.equal(video(shorter).latents[:FRAMES], whole.latents[:FRAMES])


def test_a_stopped_run_goes_on_where_it_stopped(video, whole):
    stopped = whole.latents[: FRAMES + 2]  # the second segment was half done: it is made again
    resumed = video(finished=stopped)
    assert [r.kept for r in resumed.reports] == [True, False, False]
    torch.testing.assert_close(resumed.latents, whole.latents, **CLOSE)


def test_history_changes_the_next_segment_alone(video, whole):
    without = video(segments=SegmentConfig(length=FRAMES, num_history=0)).latents
    assert torch.equal(without[:FRAMES], whole.latents[:FRAMES])
    assert not torch.allclose(without[FRAMES:], whole.latents[FRAMES:], atol=1e-3)


def test_history_noise_is_mixed_in(video, whole):
    noisy = video(history_noise=0.3).latents
    assert not torch.allclose(noisy[FRAMES:], whole.latents[FRAMES:], atol=1e-3)


def test_progress_counts_over_all_segments(video):
    seen: list[tuple[int, int, tuple[int, ...]]] = []
    video(on_step=lambda step, x0, x, total: seen.append((step, total, tuple(x0.shape))))
    assert [s for s, _, _ in seen] == list(range(9))
    assert {t for _, t, _ in seen} == {9}
    assert seen[-1][2] == (1, 16, 8, 8)


def test_an_interrupt_ends_it_and_the_next_run_is_whole(video, whole):
    import comfy.model_management as management

    def stop(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        if step == 4:
            management.interrupt_current_processing(True)

    with pytest.raises(management.InterruptProcessingException):
        video(on_step=stop)
    torch.testing.assert_close(video().latents, whole.latents, **CLOSE)


def test_another_kind_of_noise_is_asked_for_its_own(video, whole):
    asked = []

    def generate(latent: dict[str, Any]) -> Tensor:
        asked.append((tuple(latent["samples"].shape), latent["batch_index"]))
        return torch.zeros_like(latent["samples"])

    calm = video(noise=SimpleNamespace(seed=0, generate_noise=generate)).latents
    assert asked[-1] == ((1, 16, 8, 8), [LENGTH - 1])
    assert not torch.allclose(calm, whole.latents, atol=1e-2)


@pytest.mark.parametrize("name", ["dpmpp_2m", "heun", "dpmpp_2m_sde"])
def test_other_samplers_work(name, guider, random_noise, sigmas, signals):
    import comfy.samplers
    from svdp.model.backends.comfy_guider import SVDPGuider
    from svdp.model.backends.comfy_sampling import sample_video

    short = SVDPGuider(guider.model_patcher, signals, guider.fusion)
    result = sample_video(short, random_noise, comfy.samplers.sampler_object(name), sigmas, SEGMENTS)
    assert torch.isfinite(result.latents).all()


def test_without_a_step_it_is_refused(video, guider, random_noise, euler):
    from svdp.model.backends.comfy_sampling import sample_video

    with pytest.raises(UserError, match="no step"):
        sample_video(guider, random_noise, euler, torch.zeros(1), SEGMENTS)


def test_finished_latents_of_another_size_are_refused(video):
    with pytest.raises(UserError, match=r"\(16, 4, 4\)"):
        video(finished=torch.zeros(FRAMES, 16, 4, 4))


def test_where_sampling_begins_is_chosen_or_the_adapters_own(guider):
    from svdp.model.backends.comfy_guider import SVDPGuider
    from svdp.model.backends.comfy_sampling import segment_plan

    posed = SVDPGuider(guider.model_patcher, make_signals(FRAMES, posed=True), guider.fusion)
    posed.applied = replace(posed.applied, info={"sampling": {"start": 0.7}})
    assert [segment_plan(posed, 0, -1, -1.0, s).start for s in (-1.0, 0.4, 1.0)] == [0.7, 0.4, 1.0]
    posed.signals = make_signals(FRAMES)
    assert segment_plan(posed, 0, -1, -1.0).start == 1.0, "the adapter's own value is for a posed source"
    with pytest.raises(UserError, match="start must be above 0"):
        segment_plan(posed, 0, -1, -1.0, 0.0)


def test_beginning_from_a_posed_source_that_is_not_there_is_refused(guider, random_noise, euler, sigmas):
    from svdp.model.backends.comfy_sampling import sample_video

    with pytest.raises(UserError, match="connect posed"):
        sample_video(guider, random_noise, euler, sigmas, SEGMENTS, start=0.5)


def test_the_adapter_decides_what_is_left_open(guider):
    from svdp.model.backends.comfy_sampling import segment_plan

    own = segment_plan(guider, 0, -1, -1.0)
    assert own.segments == SEGMENTS and own.history_noise == 0.0
    assert segment_plan(guider, 8, 1, 0.2).segments == SegmentConfig(length=8, num_history=1)
    with pytest.raises(UserError, match="Signal Fusion"):
        segment_plan(SimpleNamespace(), 0, -1, -1.0)


@pytest.mark.parametrize(
    "settings", [{}, {"posed": True, "copy_gate": True, "driving": "aligned", "aligned": "pixels"}]
)
def test_context_windows_take_each_frames_own_signals(settings, base_path, tmp_path, random_noise, euler, sigmas):
    """Without attention over frames, windows of frames give what the whole clip gives."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode
    from svdp.model.backends.comfy import apply_adapter, load_adapter
    from svdp.model.backends.comfy_guider import SVDPGuider
    from svdp.model.backends.comfy_sampling import sample_video

    path = write_adapter(tmp_path / "a.safetensors", video_blocks=(), **settings)
    model = apply_adapter(load_model(base_path), load_adapter(str(path), path.name))
    names = {i.id for i in ContextWindowsManualNode.define_schema().inputs}
    later = {"causal_window_fix": False} if "causal_window_fix" in names else {}
    windowed = ContextWindowsManualNode.execute(
        model, context_length=4, context_overlap=2, context_schedule="standard_static", context_stride=1,
        closed_loop=False, fuse_method="pyramid", dim=0, freenoise=False, **later,
    )[0]  # fmt: skip
    one = SegmentConfig(length=8, num_history=0)

    def video(m: Any) -> Tensor:
        guider = SVDPGuider(m, make_signals(8, posed=True), FusionConfig())
        return sample_video(guider, random_noise, euler, sigmas, one).latents

    torch.testing.assert_close(video(windowed), video(model), atol=1e-4, rtol=1e-4)
