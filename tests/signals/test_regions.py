"""Masks of eyes, nose and mouth."""

import numpy as np
import pytest
from svdp.signals.regions import (
    LEFT_BROW,
    LEFT_EYE,
    MOUTH,
    NOSE,
    REGIONS,
    RIGHT_BROW,
    RIGHT_EYE,
    RegionConfig,
    masked_frames,
    region_hulls,
    region_masks,
)

from .conftest import make_landmarks

SIZE = (512, 512)
PARTS = {"eyes": LEFT_EYE + RIGHT_EYE, "nose": NOSE, "mouth": MOUTH}


def masks_of(**options) -> np.ndarray:
    return region_masks(make_landmarks()[None], SIZE, RegionConfig(**options))[0]


def test_each_region_covers_its_landmarks():
    points = make_landmarks()[:, :2].astype(int)
    for name, mask in zip(REGIONS, masks_of(), strict=True):
        x, y = points[list(PARTS[name])].T
        assert (mask[y, x] == 255).all(), name
        assert set(np.unique(mask)) == {0, 255}


def test_the_cheeks_and_the_chin_are_not_shown():
    union = masks_of().max(0)
    for x, y in ((0.45, 0.1), (-0.45, 0.1), (0, 0.6), (0, -0.5)):
        assert union[int(256 + 200 * y), int(256 + 200 * x)] == 0


@pytest.mark.parametrize("name", REGIONS)
def test_regions_switch_singly(name):
    full, single = masks_of(), masks_of(regions=(name,))
    for index, other in enumerate(REGIONS):
        np.testing.assert_array_equal(single[index], full[index] if other == name else 0)
    without = masks_of(regions=tuple(r for r in REGIONS if r != name))
    assert without[REGIONS.index(name)].max() == 0


def test_brows_are_an_option():
    landmarks = make_landmarks()
    for side, brow in ((-1, RIGHT_BROW), (1, LEFT_BROW)):
        landmarks[list(brow), 0] = 256 + side * np.linspace(20, 68, len(brow))
        landmarks[list(brow), 1] = 196
    place = (196, 256 + 44)
    plain, browed = (region_masks(landmarks[None], SIZE, RegionConfig(brows=b))[0, 0] for b in (False, True))
    assert plain[place] == 0
    assert browed[place] == 255
    assert (browed >= plain).all()


def test_dilation_grows_by_a_share_of_the_eye_distance():
    """A hull grown by a disc gains its perimeter times the radius plus the disc."""
    areas = {}
    for dilation in (0.0, 0.16):
        hull = region_hulls(make_landmarks(), RegionConfig(dilation=dilation))["mouth"][0].astype(float)
        nxt = np.roll(hull, -1, axis=0)
        areas[dilation] = abs((hull[:, 0] * nxt[:, 1] - hull[:, 1] * nxt[:, 0]).sum()) / 2
        if dilation == 0:
            perimeter = np.linalg.norm(nxt - hull, axis=1).sum()
    radius = 0.16 / 2 * 0.68 * 200
    assert areas[0.16] == pytest.approx(areas[0.0] + perimeter * radius + np.pi * radius**2, rel=0.03)
    drawn = (masks_of(dilation=0.16)[2] > 0).sum()
    assert drawn == pytest.approx(areas[0.16], rel=0.03)


def test_masks_scale_with_the_picture():
    small = region_masks(make_landmarks(x=64, y=64, size=50)[None], (128, 128), RegionConfig())[0]
    shares = (small > 0).mean((1, 2)) / (masks_of() > 0).mean((1, 2))
    np.testing.assert_allclose(shares, 1, atol=0.13)  # pixels on the edge count as inside


def test_feather_softens_the_edge():
    soft = masks_of(feather=0.2)
    assert ((soft > 0) & (soft < 255)).any()
    y, x = make_landmarks()[list(MOUTH)].mean(0)[[1, 0]].astype(int)
    assert soft[2, y, x] > 225


def test_faces_outside_of_the_picture_give_empty_masks():
    assert region_masks(make_landmarks(x=-4000)[None], (64, 64), RegionConfig()).max() == 0
    partly = region_masks(make_landmarks(x=0)[None], SIZE, RegionConfig())
    assert partly.max() == 255


def test_masked_frames_show_the_regions_only():
    frames = np.full((1, *SIZE, 3), 90, np.uint8)
    masks = masks_of()[None]
    shown = masked_frames(frames, masks)
    union = masks.max(1) > 0
    assert (shown[union] == 90).all()
    assert (shown[~union] == 0).all()
    half = masked_frames(frames, np.full((1, 3, *SIZE), 128, np.uint8))
    np.testing.assert_array_equal(half, 45)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"\['ears'\].*eyes"):
        RegionConfig(regions=("eyes", "ears"))
    with pytest.raises(ValueError, match="at least 0"):
        RegionConfig(dilation=-0.1)
