"""Detail of a draft in a result: only where both agree and the draft is known."""

import cv2
import numpy as np
import pytest
from svdp.signals.detail import transfer_detail

RNG = np.random.default_rng(0)
TEXTURE = cv2.GaussianBlur(RNG.normal(0, 22, (96, 96, 3)), (0, 0), 0.8)
DRAFT = (128 + TEXTURE).clip(0, 255).astype(np.uint8)
SMOOTH = np.full((96, 96, 3), 128, np.uint8)
ALL = np.full((96, 96), 255, np.uint8)


def roughness(picture):
    return float(np.abs(np.diff(picture.astype(float), axis=1)).mean())


def test_a_smooth_result_gets_the_drafts_detail():
    made = transfer_detail(SMOOTH, DRAFT, ALL)
    assert roughness(made) > 0.8 * roughness(DRAFT) > 0


def test_strength_scales_it_and_zero_leaves_the_result():
    assert np.array_equal(transfer_detail(SMOOTH, DRAFT, ALL, 0.0), SMOOTH)
    half = transfer_detail(SMOOTH, DRAFT, ALL, 0.5)
    assert 0.3 < roughness(half) / roughness(transfer_detail(SMOOTH, DRAFT, ALL)) < 0.7


def test_what_is_not_known_or_disagrees_is_left_alone():
    known = ALL.copy()
    known[:, :48] = 0
    made = transfer_detail(SMOOTH, DRAFT, known)
    assert roughness(made[:, :36]) < 0.1 * roughness(made[:, 60:])
    other = transfer_detail(np.full_like(SMOOTH, 40), DRAFT, ALL)
    assert roughness(other) < 0.1 * roughness(DRAFT)


def test_a_small_result_is_enlarged_to_the_draft():
    small = np.full((48, 48, 3), 128, np.uint8)
    assert np.array_equal(transfer_detail(small, DRAFT, ALL), transfer_detail(SMOOTH, DRAFT, ALL))


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="strength"):
        transfer_detail(SMOOTH, DRAFT, ALL, 1.5)
    with pytest.raises(ValueError, match="one size"):
        transfer_detail(SMOOTH, DRAFT, ALL[:48])
