"""Motion modes, pasting back, and pictures for looking at."""

import numpy as np
import pytest
from svdp.signals.crops import Crop, CropConfig, crop_frame, crop_landmarks, crop_track, plan_crop
from svdp.signals.motion import STEADY, align_motion, compose, fit_similarity
from svdp.signals.paste import paste_back
from svdp.signals.preview import contact_sheet, draw_track, pick_frames

from .conftest import make_landmarks, make_track, smooth_picture

CFG = CropConfig(size=128)


def similarity(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    a, b = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    return np.array([[a, -b, x], [b, a, y]])


def test_a_known_similarity_is_found():
    points = np.random.default_rng(0).normal(size=(9, 2))
    truth = similarity(25, 1.7, 3, -4)
    moved = points @ truth[:, :2].T + truth[:, 2]
    np.testing.assert_allclose(fit_similarity(points, moved), truth, atol=1e-9)


def test_composed_affines_act_one_after_the_other():
    first = np.stack([similarity(10, 2, 5, 6), similarity(-30, 0.5, 1, 2)]).astype(np.float32)
    second = similarity(45, 1.1, -3, 8)
    points = make_landmarks()[None].repeat(2, 0)
    twice = crop_landmarks(crop_landmarks(points, first), second[None].repeat(2, 0))
    np.testing.assert_allclose(crop_landmarks(points, compose(second, first)), twice, atol=1e-2)


def driver_and_source(source_face: dict):
    driver = make_track(np.stack([make_landmarks(x=250 + 2 * t, roll=10 + t, size=200) for t in range(5)]))
    source = make_track(make_landmarks(**source_face)[None])
    return driver, plan_crop(driver, CFG), crop_track(source, plan_crop(source, CFG))


def test_absolute_motion_leaves_the_crop_alone():
    driver, crop, source = driver_and_source({})
    assert align_motion(crop, driver, source, "absolute") is crop


def test_relative_motion_is_the_identity_at_the_reference_of_the_source_itself():
    driver, crop, _ = driver_and_source({})
    for reference in (0, 3):
        aligned = align_motion(crop, driver, crop_track(driver, crop)[reference], "relative", reference)
        np.testing.assert_allclose(aligned.affines, crop.affines, atol=1e-3)


def test_relative_motion_starts_on_the_source():
    driver, crop, source = driver_and_source({"roll": -12, "size": 300})
    aligned = align_motion(crop, driver, source, "relative")
    placed = crop_landmarks(driver.landmarks, aligned.affines)
    steady = list(STEADY)
    np.testing.assert_allclose(placed[0, steady, :2], source.landmarks[0, steady, :2], atol=0.2)
    tilt = np.degrees(np.arctan2(*(placed[:, 263] - placed[:, 33])[:, [1, 0]].T))
    np.testing.assert_allclose(tilt, -12 + np.arange(5), atol=0.2)  # then moves as the driver does


def test_relative_motion_wants_the_source_in_crop_pixels():
    driver, crop, _ = driver_and_source({})
    with pytest.raises(ValueError, match="128 x 128 crop"):
        align_motion(crop, driver, make_track(make_landmarks()[None]), "relative")
    with pytest.raises(ValueError, match="reference frame 9"):
        align_motion(crop, driver, crop_track(driver, crop), "relative", 9)
    with pytest.raises(ValueError, match="absolute or relative"):
        align_motion(crop, driver, crop_track(driver, crop), "sideways")  # type: ignore[arg-type]


AFFINES = {
    "shrunk": np.array([[0.5, 0, -40.3], [0, 0.5, -30.7]], np.float32),
    "over the edge": np.array([[0.8, 0, 20], [0, 0.8, -150.5]], np.float32),
    "enlarged": np.array([[1.6, 0, -300], [0, 1.6, -200]], np.float32),
    "turned": similarity(15, 0.7, 10, -80).astype(np.float32),
}


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("feather", [0, 0.1])
def test_pasting_an_unchanged_crop_reproduces_the_picture(name, feather):
    full = smooth_picture(300, 400)
    crop = crop_frame(full, AFFINES[name], 128)
    pasted, mask = paste_back(full, crop, AFFINES[name], feather, True)
    assert (mask == 255).any()
    np.testing.assert_array_equal(pasted[mask == 0], full[mask == 0])
    difference = np.abs(pasted.astype(int) - full)
    assert difference.mean() < 0.5
    assert np.percentile(difference[mask > 0], 99) <= 4


def test_feather_is_soft_towards_the_edge_of_the_crop_only():
    full, affine = smooth_picture(200, 200), np.array([[1, 0, -50], [0, 1, -50]], np.float32)
    crop = np.full((100, 100, 3), 255, np.uint8)
    hard = paste_back(full, crop, affine, 0, False)[1]
    assert set(np.unique(hard)) == {0, 255}
    assert (hard[50:150, 50:150] == 255).all()
    assert hard.sum() == 100 * 100 * 255
    soft = paste_back(full, crop, affine, 0.2, False)[1].astype(int)
    assert (np.diff(soft[100, 50:100]) >= 0).all()
    assert (soft[71:129, 71:129] == 255).all()
    assert soft[50, 50] < 10


def test_colour_match_undoes_a_tint():
    full, affine = smooth_picture(200, 240), np.array([[0.8, 0, -40], [0, 0.8, -30]], np.float32)
    crop = crop_frame(full, affine, 100)
    tinted = np.clip(crop * np.array([0.9, 1.0, 1.1]) + [10, -8, 5], 0, 255).astype(np.uint8)
    errors = [np.abs(paste_back(full, tinted, affine, 0.05, m)[0].astype(int) - full).mean() for m in (False, True)]
    assert errors[1] < 0.2 * errors[0]


def test_a_crop_beside_the_picture_changes_nothing():
    full = smooth_picture(60, 60)
    pasted, mask = paste_back(full, full, np.array([[1, 0, 500], [0, 1, 0]], np.float32))
    np.testing.assert_array_equal(pasted, full)
    assert mask.max() == 0


def test_feather_is_checked():
    with pytest.raises(ValueError, match="feather"):
        paste_back(smooth_picture(9, 9), smooth_picture(9, 9), np.eye(3)[:2], 0.7, False)


def test_a_crop_can_be_cut_in_time():
    crop = Crop(np.tile(np.eye(3)[:2], (7, 1, 1)).astype(np.float32), 64)
    assert crop[2:5].affines.shape == (3, 2, 3)
    assert crop[2:5].size == 64


def test_drawing_leaves_the_frame_alone_and_marks_interpolation():
    frame = np.zeros((512, 512, 3), np.uint8)
    drawn, missing = (draw_track(frame, make_landmarks(), present=p) for p in (True, False))
    assert frame.max() == 0
    assert drawn.max() > 0
    assert (missing != drawn).any()
    assert (draw_track(frame, make_landmarks(), None) > 0).sum() < (drawn > 0).sum()


def test_contact_sheet_holds_every_picture():
    small, tall, grey = (
        np.full((20, 30, 3), 200, np.uint8),
        np.full((40, 10, 3), 90, np.uint8),
        np.full((40, 40), 7, np.uint8),
    )
    sheet = contact_sheet([[small, tall], [grey]], ["first row", "second"])
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] > 80
    for value, area in ((200, 40 * 60), (90, 400), (7, 1600)):
        assert (sheet == value).all(2).sum() >= area
    assert contact_sheet([[small]], ["x"], cell=64).shape[0] == 64 + 22


def test_contact_sheet_refuses_nonsense():
    with pytest.raises(ValueError, match="2 rows of pictures but 1 labels"):
        contact_sheet([[], []], ["x"])
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([[]], ["x"])


def test_picked_frames_span_the_clip():
    assert pick_frames(100, 4) == [0, 33, 66, 99]
    assert pick_frames(2, 5) == [0, 1]
    assert pick_frames(1, 3) == [0]
