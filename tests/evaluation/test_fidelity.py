"""PSNR, SSIM and L1 of pictures whose answers are known."""

import numpy as np
import pytest
from svdp.evaluation.fidelity import MOST_PSNR, l1, psnr, ssim

NOISE = np.random.default_rng(0).integers(40, 200, (48, 64, 3)).astype(np.uint8)


def flat(level: int) -> np.ndarray:
    return np.full((32, 32, 3), level, np.uint8)


def test_equal_pictures():
    assert (l1(NOISE, NOISE), psnr(NOISE, NOISE)) == (0, MOST_PSNR)
    assert ssim(NOISE, NOISE) == pytest.approx(1)


def test_a_constant_difference():
    assert l1(NOISE, NOISE + 10) == pytest.approx(10 / 255)
    assert psnr(NOISE, NOISE + 10) == pytest.approx(20 * np.log10(255 / 10))
    assert l1(flat(0), flat(255)) == 1
    assert psnr(flat(0), flat(255)) == 0


def test_one_channel_counts_a_third():
    red = NOISE.copy()
    red[..., 0] += 30
    assert l1(NOISE, red) == pytest.approx(10 / 255)
    assert psnr(NOISE, red) == pytest.approx(10 * np.log10(3 * 255**2 / 30**2))


def test_ssim_of_flat_pictures_is_its_luminance_term():
    c1 = (0.01 * 255) ** 2
    assert ssim(flat(100), flat(150)) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


def test_ssim_of_the_negative_is_negative_and_of_less_contrast_as_in_the_formula():
    assert ssim(NOISE, 240 - NOISE) < -0.5
    rng = np.random.default_rng(1)
    signs = rng.choice([-1, 1], (200, 200, 3))
    weak, strong = (np.uint8(120 + level * signs) for level in (20, 40))
    assert ssim(weak, strong) == pytest.approx(2 * 20 * 40 / (20**2 + 40**2), abs=0.03)  # contrast term alone


def test_other_sizes_and_types_are_refused():
    with pytest.raises(ValueError, match="one size"):
        psnr(NOISE, NOISE[1:])
    with pytest.raises(ValueError, match="one size"):
        l1(NOISE, NOISE.astype(np.float32))
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(NOISE[:10], NOISE[:10])
