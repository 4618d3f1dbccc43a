"""Planning, noise per frame, and the segment loop with a real tiny model."""

from __future__ import annotations

import itertools

import pytest
import torch
from svdp.errors import UserError
from svdp.model.config import FusionConfig, SegmentConfig
from svdp.model.sampling import SamplingConfig, SegmentSignals, generate
from svdp.model.segments import Segment, frame_noise, plan_segments
from svdp.model.streams import Conditions, Streams

from .conftest import SIDE, TINY, tiny_denoiser

SHAPE = (TINY.channels, SIDE, SIDE)
PLAN = SegmentConfig(length=4, num_history=2)


def signals_of(segment: Segment) -> SegmentSignals:
    """Driving latents and masks that depend on the absolute frame index alone."""
    frames = range(segment.start, segment.stop)
    masks = torch.zeros(len(frames), 3, SIDE, SIDE)
    for i, f in enumerate(frames):
        masks[i, 0, f % SIDE, :4] = 1
    return SegmentSignals(masks, frame_noise(frames, SHAPE, 77))


def animate(num_frames: int, denoiser=None, **settings) -> list:
    d = denoiser or tiny_denoiser()
    source = frame_noise(range(1), SHAPE, 5)[0]
    cfg = SamplingConfig(**{"steps": 2, **settings})
    return list(generate(d, source, signals_of, plan_segments(num_frames, PLAN), cfg))


@pytest.mark.parametrize("num_frames", [1, 4, 5, 11, 160])
def test_new_frames_tile_the_video(num_frames):
    plan = plan_segments(num_frames, PLAN)
    assert [f for s in plan for f in range(s.start, s.stop)] == list(range(num_frames))
    assert plan[0].num_history == 0 and all(s.num_history == 2 for s in plan[1:])
    assert all(s.length == 4 for s in plan[:-1])


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="0 frames"):
        plan_segments(0, PLAN)
    with pytest.raises(UserError, match="history"):
        SegmentConfig(length=4, num_history=5)


def test_noise_depends_on_seed_and_frame_alone():
    assert torch.equal(frame_noise(range(3, 6), SHAPE, 1)[0], frame_noise(range(0, 4), SHAPE, 1)[3])
    assert not torch.equal(frame_noise(range(1), SHAPE, 1), frame_noise(range(1), SHAPE, 2))


def test_seeds_that_differ_give_different_noise():
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2 * 2**32, 2**33 + 1, 2**63, 2**63 + 1, 2**64 - 1, 2**64, 3**80]
    noises = [frame_noise(range(2), (4, 16, 16), seed) for seed in seeds]
    for a, b in itertools.combinations(noises, 2):
        assert not torch.equal(a[0], b[0]) and not torch.equal(a[1], b[1])
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.95
    for noise in noises:
        assert abs(noise.mean()) < 0.1 and 0.95 < noise.std() < 1.05
    with pytest.raises(UserError, match="the seed must be 0 or more, got -1"):
        frame_noise(range(1), SHAPE, -1)


def test_small_seeds_give_the_noise_they_always_gave():
    expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7 * 1_000_003 + 5))
    assert torch.equal(frame_noise(range(5, 6), SHAPE, 7)[0], expected)


def test_same_seed_gives_the_same_first_segments_whatever_the_length():
    long, short = animate(12), animate(8)
    assert len(long) == 3 and len(short) == 2
    for a, b in zip(long, short, strict=False):
        assert torch.equal(a.latents, b.latents)
    assert not torch.equal(animate(4, seed=1)[0].latents, short[0].latents)


def test_history_is_absent_in_the_first_segment_and_used_later():
    d = tiny_denoiser()
    seen: list[Conditions] = []
    original = d.prefill

    def recording(conditions: Conditions, source: Streams | None = None) -> Streams:
        seen.append(conditions)
        return original(conditions, source)

    d.prefill = recording  # type: ignore[method-assign]
    results = animate(12, d)
    assert seen[0].history is None and "p" not in results[0].branches
    for i in (1, 2):
        assert seen[i].history is not None and "p" in results[i].branches
        assert torch.equal(seen[i].history[0], results[i - 1].latents[-2:])


def test_history_reaches_across_short_segments():
    """With segments shorter than the history it is still the last frames before the segment."""
    source = frame_noise(range(1), SHAPE, 5)[0]
    plan = [Segment(0, 1, 0), Segment(1, 2, 1), Segment(2, 3, 2)]
    results = list(generate(tiny_denoiser(), source, signals_of, plan, SamplingConfig(steps=1)))
    assert [len(r.latents) for r in results] == [1, 1, 1]


def test_a_stopped_run_is_resumed_from_its_last_frames():
    whole = animate(12)
    source = frame_noise(range(1), SHAPE, 5)[0]
    rest = generate(
        tiny_denoiser(), source, signals_of, plan_segments(12, PLAN)[2:], SamplingConfig(steps=2),
        history=whole[1].latents[-2:],
    )  # fmt: skip
    assert torch.equal(next(rest).latents, whole[2].latents)


def test_pruned_fusion_in_the_loop_equals_all_branches():
    """Weights 1/1/1 compute one branch; weights a hair away compute all four and agree."""
    one = animate(8, fusion=FusionConfig(source=1, driving=1, history=1))
    four = animate(8, fusion=FusionConfig(source=1 + 1e-6, driving=1 + 2e-6, history=1 + 3e-6))
    assert one[1].branches == ("p",) and len(four[1].branches) == 4
    torch.testing.assert_close(one[1].latents, four[1].latents, atol=1e-3, rtol=1e-3)


def test_rescaling_in_the_loop_keeps_the_contrast_of_the_plain_prediction():
    def first(weight: float, rescale: float) -> torch.Tensor:
        fusion = FusionConfig(source=weight, driving=weight, history=1.0, rescale=rescale)
        return animate(4, steps=1, fusion=fusion)[0].latents

    plain, strong, rescaled = first(1.0, 0.0), first(4.0, 0.0), first(4.0, 1.0)
    torch.testing.assert_close(rescaled.std((2, 3)), plain.std((2, 3)), atol=1e-4, rtol=1e-4)
    assert (strong.std((2, 3)) - plain.std((2, 3))).abs().max() > 0.01
    assert (rescaled - plain).abs().max() > 0.01  # what the weights did is kept but for its size


def test_history_noise_changes_only_later_segments():
    clean, noisy = animate(8), animate(8, history_noise=0.3)
    assert torch.equal(clean[0].latents, noisy[0].latents)
    assert not torch.equal(clean[1].latents, noisy[1].latents)


def test_callback_may_stop_the_run():
    calls: list[int] = []

    def stop(segment: Segment, step: int, x0: torch.Tensor) -> None:
        calls.append(step)
        assert x0.shape == (4, *SHAPE)
        if step == 2:
            raise KeyboardInterrupt

    source = frame_noise(range(1), SHAPE, 5)[0]
    run = generate(tiny_denoiser(), source, signals_of, plan_segments(8, PLAN), SamplingConfig(steps=4), on_step=stop)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert calls == [1, 2]
