"""Optical flow measures on pictures that are frozen, shifted by known pixels, or flicker by a known amount."""

import cv2
import numpy as np
import pytest
from svdp.evaluation.temporal import dis_flow, farneback_flow, seen_in_both, tof, warp, warping_error

SIZE, MARGIN = 128, 16


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    """Smooth noise with detail of about 8 pixels, larger than the picture by a margin on each side."""
    side = SIZE + 2 * MARGIN
    noise = np.random.default_rng(0).normal(size=(side, side, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.uint8(np.clip(127 + 40 * smooth / smooth.std(), 20, 230))


def view(texture: np.ndarray, x: int = 0, y: int = 0) -> np.ndarray:
    """The picture when its content has moved by (x, y) pixels."""
    return texture[MARGIN - y : MARGIN - y + SIZE, MARGIN - x : MARGIN - x + SIZE]


@pytest.mark.parametrize("flow_of", [farneback_flow, dis_flow])
def test_flow_finds_a_known_shift(texture: np.ndarray, flow_of):
    flow = flow_of(view(texture), view(texture, 3, -2))
    inner = flow[20:-20, 20:-20]
    assert np.abs(inner - (3, -2)).mean() < 0.2


def test_warping_undoes_a_shift(texture: np.ndarray):
    flow = np.broadcast_to(np.float32((3, -2)), (SIZE, SIZE, 2))
    back = warp(view(texture, 3, -2), flow)
    np.testing.assert_array_equal(back[4:-4, 4:-4], view(texture)[4:-4, 4:-4])


def test_tof_of_the_same_motion_is_zero_and_of_a_frozen_result_the_motion_itself(texture: np.ndarray):
    still, moved = view(texture), view(texture, 3, 4)  # five pixels
    assert tof(still, moved, still, moved) == 0
    assert tof(still, still, still, moved) == pytest.approx(5, rel=0.15)
    backwards = tof(still, view(texture, -3, -4), still, moved)
    assert backwards == pytest.approx(10, rel=0.15)


def test_tof_does_not_care_what_is_shown(texture: np.ndarray):
    other = 255 - texture[::-1, ::-1]
    assert tof(view(other), view(other, 3, 4), view(texture), view(texture, 3, 4)) < 1


def test_warping_error_of_frozen_and_moving_pictures_is_nothing(texture: np.ndarray):
    assert warping_error(view(texture), view(texture)) == 0
    unwarped = float(((view(texture).astype(float) - view(texture, 3, -2)) ** 2).mean()) / 255**2
    assert warping_error(view(texture), view(texture, 3, -2)) < 0.01 * unwarped


def test_warping_error_of_flicker_is_its_square(texture: np.ndarray):
    assert warping_error(view(texture), view(texture) + 20) == pytest.approx((20 / 255) ** 2, rel=0.05)


def test_what_another_thing_covers_is_not_seen_in_both(texture: np.ndarray):
    before, now = view(texture).copy(), view(texture).copy()
    patch = texture[-40:, -40:][::-1]
    before[40:80, 30:70], now[40:80, 42:82] = patch, patch  # a square moves 12 pixels over a still ground
    seen = seen_in_both(dis_flow(before, now), dis_flow(now, before))
    assert seen[45:75, 72:80].mean() < 0.5  # ground that gets covered
    assert seen[90:].mean() > 0.9  # ground far away


def test_pictures_with_nothing_in_common_say_nan_or_a_large_error():
    a, b = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3)).astype(np.uint8)
    error = warping_error(a, b)
    assert np.isnan(error) or error > 0.01
