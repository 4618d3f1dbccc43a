"""Filling gaps and taking out jitter."""

import numpy as np
import pytest
from svdp.signals.smoothing import OneEuro, fill_missing, nearest_rotations

from .conftest import rotation


def test_gaps_in_linear_motion_are_filled_exactly():
    truth = np.linspace([0.0, 5.0], [9.0, -4.0], 10)
    present = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 1], bool)
    holed = np.where(present[:, None], truth, 99.0)
    np.testing.assert_allclose(fill_missing(holed, present), truth, atol=1e-12)


def test_ends_are_held_and_present_frames_untouched():
    values = np.array([9.0, 9.0, 2.0, 7.0, 9.0])
    filled = fill_missing(values, np.array([0, 0, 1, 1, 0], bool))
    np.testing.assert_array_equal(filled, [2, 2, 2, 7, 7])


def test_one_known_frame_fills_all():
    np.testing.assert_array_equal(fill_missing(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 0], bool)), [2, 2, 2])


def test_interpolated_rotations_become_rotations_again():
    halfway = np.tile(np.eye(4), (1, 1, 1))
    halfway[0, :3, :3] = (rotation(yaw=-40) + rotation(yaw=40)) / 2
    fixed = nearest_rotations(halfway)[0, :3, :3]
    scale = np.linalg.norm(fixed, axis=0)
    np.testing.assert_allclose(fixed / scale, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(scale, scale[0])


def test_constant_signals_are_kept():
    values = np.full((20, 478, 3), 3.25, np.float32)
    np.testing.assert_array_equal(OneEuro()(values, 25.0), values)


def test_jitter_is_reduced_and_slow_motion_kept():
    rng = np.random.default_rng(0)
    t = np.arange(100)[:, None] / 25
    truth = np.sin(2 * np.pi * 0.5 * t) * [0.2, 0.1]  # eye distances
    noisy = truth + rng.normal(0, 0.004, truth.shape)
    smooth = OneEuro()(noisy, 25.0)
    assert np.abs(np.diff(smooth, 2, axis=0)).mean() < 0.6 * np.abs(np.diff(noisy, 2, axis=0)).mean()
    assert np.abs(smooth - truth).mean() < np.abs(noisy - truth).mean()


def test_smoothing_has_no_lag():
    t = np.arange(50) / 25
    moving = np.sin(2 * np.pi * t)
    smooth = OneEuro(min_cutoff=1.0, beta=0.0)(moving, 25.0)
    shifts = range(-3, 4)
    fit = [np.corrcoef(np.roll(smooth, s)[5:-5], moving[5:-5])[0, 1] for s in shifts]
    assert list(shifts)[int(np.argmax(fit))] == 0


def test_scale_makes_the_filter_blind_to_picture_size():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(30, 4))
    np.testing.assert_allclose(OneEuro()(values * 50, 25.0, 50.0), OneEuro()(values, 25.0) * 50, rtol=1e-6)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        OneEuro(min_cutoff=0)
