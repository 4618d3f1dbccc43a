"""Seams and drift of series whose answers are known; means and their intervals."""

import numpy as np
import pytest
from svdp.evaluation.bootstrap import BLOCK, block_draws, mean_score
from svdp.evaluation.length import LEAST_FRAMES, WINDOW, colour_drift, kept_share, mean_lab, seam_ratio

BORDERS = range(16, 160, 16)  # of ten segments


def changes(at_borders: float, inside: float = 1.0) -> np.ndarray:
    series = np.full(159, inside)
    series[[b - 1 for b in BORDERS]] = at_borders
    return series


@pytest.mark.parametrize("jump", [0.5, 1.0, 3.0])
def test_the_seam_ratio_is_that_of_the_jump(jump: float):
    score = seam_ratio(changes(jump), BORDERS)
    assert score.value == pytest.approx(jump)
    assert (score.low, score.high) == pytest.approx((jump, jump))


def test_a_seamless_video_has_one_within_its_interval():
    rng = np.random.default_rng(0)
    score = seam_ratio(rng.gamma(4, size=159), BORDERS)
    assert score.low < 1 < score.high
    assert score.low < score.value < score.high


def test_seams_that_cannot_be_measured_say_why():
    assert "no border" in seam_ratio(changes(1.0), []).reason
    assert "no border" in seam_ratio(np.ones(10), [16]).reason
    assert "nothing moves" in seam_ratio(changes(0, 0), BORDERS).reason
    assert np.isnan(seam_ratio(changes(2.0)[:40], [16, 32]).low)  # two borders give a value without interval


def test_drift_is_what_is_left_at_the_end():
    fading = np.linspace(1, 0.5, 160)
    expected = fading[-WINDOW:].mean() / fading[6:14].mean()
    assert kept_share(fading).value == pytest.approx(expected)
    assert kept_share(np.full(160, 0.7)).value == pytest.approx(1)
    holes = np.full(160, 0.7)
    holes[[7, 158]] = np.nan
    assert kept_share(holes).value == pytest.approx(1)


def test_drift_that_cannot_be_measured_says_why():
    assert f"{LEAST_FRAMES} frames" in kept_share(np.ones(LEAST_FRAMES - 1)).reason
    lost = np.ones(160)
    lost[-20:] = np.nan
    assert (kept_share(lost).reason, kept_share(lost).counted) == ("no face at the end", 0.0)
    assert kept_share(-np.ones(160)).reason == "no likeness at the beginning"
    assert "frames" in colour_drift(np.zeros((5, 3))).reason


def test_colour_drift_is_the_distance_in_lab():
    colours = np.zeros((160, 3))
    colours[-WINDOW:] = 3, 4, 0
    assert colour_drift(colours).value == pytest.approx(5)
    assert colour_drift(np.ones((160, 3))).value == 0


def test_mean_lab_of_grey_and_red():
    grey = np.full((4, 4, 3), 119, np.uint8)  # L = 50, the middle of what the eye sees
    np.testing.assert_allclose(mean_lab(grey), (50, 0, 0), atol=0.5)
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_allclose(mean_lab(red), (53.2, 80.1, 67.2), atol=0.3)


def test_means_leave_out_what_is_nan_and_hold_their_interval():
    rng = np.random.default_rng(0)
    series = rng.normal(5, 1, 96)
    series[::7] = np.nan
    score = mean_score(series)
    assert score.value == pytest.approx(np.nanmean(series))
    assert score.low < score.value < score.high
    assert np.isnan(mean_score(np.ones(2 * BLOCK - 1)).low)
    assert mean_score(np.full(5, np.nan), "nobody").reason == "nobody"


def test_drawn_blocks_are_runs_of_neighbours():
    frames = block_draws(3 * BLOCK, draws=5)
    assert frames is not None and frames.shape == (5, 3 * BLOCK)
    steps = np.diff(frames.reshape(5, 3, BLOCK), axis=2)
    assert (steps == 1).all()
    assert 0 <= frames.min() and frames.max() < 3 * BLOCK
