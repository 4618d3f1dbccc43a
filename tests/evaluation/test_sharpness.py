"""Sharpness falls with a known blur and is not bought by noise."""

import cv2
import numpy as np
import pytest
from svdp.evaluation.sharpness import COARSE, FINE, edge_sharpness


@pytest.fixture(scope="module")
def drawing():
    """Shapes with step edges on a plain ground."""
    rng = np.random.default_rng(0)
    picture = np.full((256, 256, 3), 120, np.uint8)
    for _ in range(14):
        centre, size = rng.integers(30, 226, 2), rng.integers(12, 40, 2)
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        cv2.ellipse(picture, (centre.tolist(), size.tolist(), float(rng.uniform(0, 180))), colour, -1)
    return picture


def blurred(picture, spread):
    return cv2.GaussianBlur(picture, (0, 0), spread)


def test_step_edges_have_nearly_the_ratio_of_the_scales(drawing):
    assert 1.0 < edge_sharpness(drawing) < COARSE / FINE - 1  # pixels themselves blur a little
    assert edge_sharpness(np.full((64, 64, 3), 100, np.uint8)) < 0.05


@pytest.mark.parametrize("spread", [0.7, 1.0, 1.5, 2.5])
def test_a_known_blur_gives_the_known_ratio(drawing, spread):
    known = np.sqrt((spread**2 + COARSE**2) / (spread**2 + FINE**2)) - 1
    assert edge_sharpness(blurred(drawing, spread)) == pytest.approx(known, rel=0.2)


@pytest.mark.parametrize("amount", [4, 8, 14])
def test_noise_is_not_rewarded(drawing, amount):
    rng = np.random.default_rng(1)
    soft = blurred(drawing, 2.0)
    noisy = (soft + rng.normal(0, amount, soft.shape)).clip(0, 255).astype(np.uint8)
    assert edge_sharpness(noisy) < 1.12 * edge_sharpness(soft)
    assert edge_sharpness(noisy) < 0.8 * edge_sharpness(drawing)
