"""Correlations whose answer is known, medians that failures cannot raise."""

import numpy as np
import pytest
from svdp.evaluation.correlation import BLOCK, MIN_FRAMES, block_interval, correlate, pearson
from svdp.evaluation.score import Score, median_score

FRAMES = np.arange(96)
WAVE = np.sin(2 * np.pi * FRAMES / 24)  # whole periods of 24 frames
EVERY = np.ones(96, bool)


def test_known_answers():
    shifted = np.sin(2 * np.pi * (FRAMES - 6) / 24)  # a quarter of a period late: orthogonal
    for result, expected in [(WAVE, 1.0), (3 * WAVE + 7, 1.0), (-WAVE, -1.0), (shifted, 0.0), (-2 * WAVE + 1, -1.0)]:
        assert correlate(WAVE, result, EVERY).value == pytest.approx(expected, abs=1e-6)


def test_agrees_with_numpy_and_follows_no_motion_of_its_own():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=96)
    assert correlate(WAVE, noise, EVERY).value == pytest.approx(np.corrcoef(WAVE, noise)[0, 1])
    assert abs(correlate(WAVE, noise, EVERY).value) < 0.3


@pytest.mark.parametrize(("driver", "result"), [(WAVE, 0 * WAVE + 5), (0 * WAVE, WAVE), (0 * WAVE, 0 * WAVE)])
def test_a_still_series_has_no_correlation_and_says_why(driver: np.ndarray, result: np.ndarray):
    score = correlate(driver, result, EVERY)
    assert np.isnan(score.value)
    assert score.reason == ("the driver holds still" if not driver.any() else "the result holds still")


def test_motion_below_the_floor_is_stillness():
    noise = np.random.default_rng(0).normal(0, 0.05, 96)
    assert np.isnan(correlate(WAVE, noise + 0.05 * WAVE, EVERY, floor=0.1).value)
    assert not np.isnan(correlate(WAVE, noise + 0.05 * WAVE, EVERY, floor=0.01).value)


def test_frames_that_are_not_valid_do_not_count():
    valid = FRAMES % 2 == 0
    assert correlate(WAVE, np.where(valid, WAVE, 100), valid).value == pytest.approx(1)
    few = correlate(WAVE, WAVE, FRAMES < MIN_FRAMES - 1)
    assert np.isnan(few.value)
    assert few.reason == f"only {MIN_FRAMES - 1} frames with a face in both"


def test_series_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"\(96,\), \(95,\)"):
        correlate(WAVE, WAVE[1:], EVERY)


def test_interval_holds_the_value_and_widens_with_noise():
    rng = np.random.default_rng(1)
    width = []
    for level in (0.2, 1.0):
        noisy = WAVE + rng.normal(0, level, 96)
        score = correlate(WAVE, noisy, EVERY)
        assert score.low < score.value < score.high
        width.append(score.high - score.low)
    assert width[1] > 2 * width[0]
    assert correlate(WAVE, WAVE, EVERY).low == pytest.approx(1)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(100):
        common = rng.normal(size=240)
        a, b = (common + rng.normal(size=240) for _ in range(2))  # true correlation 1/2
        low, high = block_interval(a, b, draws=200, seed=seed)
        hits += low <= 0.5 <= high
    assert 85 <= hits <= 100


def test_short_series_have_no_interval():
    assert np.isnan(block_interval(WAVE[: 2 * BLOCK - 1], WAVE[: 2 * BLOCK - 1])).all()


def test_pearson_over_the_last_axis():
    a = np.stack([WAVE, WAVE, 0 * WAVE])
    b = np.stack([WAVE, -WAVE, WAVE])
    np.testing.assert_allclose(pearson(a, b), [1, -1, np.nan])


def test_failed_runs_count_as_nothing_gained_and_empty_ones_not_at_all():
    good = [Score.of(0.9), Score.of(0.8)]
    failed = correlate(WAVE, 0 * WAVE, EVERY)
    nothing_to_follow = correlate(0 * WAVE, WAVE, EVERY)
    assert median_score([*good, failed]).value == 0.8
    assert median_score([*good, failed, failed, failed]).value == 0
    assert median_score([*good, nothing_to_follow]).value == pytest.approx(0.85)
    assert median_score([nothing_to_follow]).reason == "no run has this number"


def test_a_score_is_a_number_or_says_why_not():
    with pytest.raises(ValueError, match="reason"):
        Score(value=float("nan"))
    with pytest.raises(ValueError, match="reason"):
        Score(value=1.0, reason="none")
