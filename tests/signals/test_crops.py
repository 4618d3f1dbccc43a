"""The crop rule: same size and place for everybody, one scale per clip, exact both ways."""

import numpy as np
import pytest
from svdp.signals.crops import CropConfig, crop_frame, crop_landmarks, crop_track, face_frame, plan_crop, resample

from .conftest import make_landmarks, make_track, smooth_picture


def clip(*faces: dict) -> np.ndarray:
    return np.stack([make_landmarks(**face) for face in faces])


def test_face_frame_scales_and_moves_with_the_face():
    centre, size = face_frame(clip({}, {"x": 300, "y": 100}, {"size": 400}))
    np.testing.assert_allclose(centre[1] - centre[0], [44, -156], atol=1e-3)
    np.testing.assert_allclose(size[1:] / size[0], [1, 2], rtol=1e-5)


def test_face_frame_is_steady_when_the_head_turns_or_the_mouth_opens():
    still = make_landmarks()
    opened = still.copy()
    opened[[152, 14, 17], 1] += 60
    landmarks = np.stack([still, opened, *clip({"yaw": 40}, {"yaw": -40}, {"pitch": 20}, {"roll": 20})])
    centre, size = face_frame(landmarks)
    np.testing.assert_allclose(size, size[0], rtol=1e-4)
    np.testing.assert_array_equal(centre[1], centre[0])
    face_height = np.linalg.norm(still[10] - still[152])
    assert np.linalg.norm(centre - centre[0], axis=1).max() < 0.2 * face_height  # the ears lie deep: the centre swings


def test_faces_of_any_size_and_place_come_out_alike():
    crops = [
        crop_track(track, plan_crop(track, CropConfig(size=128)))
        for track in (make_track(clip(face)) for face in ({}, {"x": 90, "y": 400, "size": 50}, {"size": 431}))
    ]
    for other in crops[1:]:
        np.testing.assert_allclose(other.landmarks, crops[0].landmarks, atol=0.01)
    assert crops[0].image_size == (128, 128)


def test_scale_is_locked_over_the_clip():
    track = make_track(clip(*({"x": 200 + 5 * t, "size": 180 + t} for t in range(20))))
    for position in ("auto", "locked", "follow"):
        affines = plan_crop(track, CropConfig(position=position)).affines
        zoom = affines[:, 0, 0]
        assert np.ptp(zoom) == 0
        np.testing.assert_array_equal(affines[:, [0, 1], [1, 0]], 0)


def test_position_is_locked_for_small_motion_and_follows_large():
    sway = [{"x": 256 + 10 * np.sin(t / 3)} for t in range(60)]
    walk = [{"x": 100 + 6 * t} for t in range(60)]
    assert np.ptp(plan_crop(make_track(clip(*sway)), CropConfig()).affines, axis=0).max() == 0
    track = make_track(clip(*walk))
    followed = crop_landmarks(track.landmarks, plan_crop(track, CropConfig()).affines)
    locked = crop_landmarks(track.landmarks, plan_crop(track, CropConfig(position="locked")).affines)
    inside = [((points[:, :, :2] > 0) & (points[:, :, :2] < 128)).all() for points in (followed, locked)]
    assert inside == [True, False]


def test_a_face_that_comes_closer_stays_inside():
    track = make_track(clip(*({"size": 120 + 4 * t} for t in range(40))))
    points = crop_track(track, plan_crop(track, CropConfig())).landmarks[..., :2]
    assert points.min() > 0
    assert points.max() < 128


def test_shift_moves_the_square_up():
    track = make_track(clip({}))
    size = face_frame(track.landmarks)[1][0]
    plain, shifted = (crop_track(track, plan_crop(track, CropConfig(shift_y=s))).landmarks for s in (0, 0.1))
    np.testing.assert_allclose(shifted[..., 1] - plain[..., 1], 0.1 * size * 128 / (1.9 * size), atol=1e-3)


def test_landmarks_survive_the_round_trip():
    track = make_track(clip({"yaw": 20, "x": 333.3, "y": 77.7, "size": 123.4}, {"size": 50}))
    affines = plan_crop(track, CropConfig(size=160)).affines
    cropped = crop_landmarks(track.landmarks, affines)
    inverse = np.linalg.inv(np.concatenate([affines, np.tile([[[0, 0, 1]]], (2, 1, 1))], axis=1))[:, :2]
    assert np.abs(crop_landmarks(cropped, inverse) - track.landmarks).max() < 0.01


@pytest.mark.parametrize("zoom", [0.13, 0.31, 0.5, 1.0, 2.7])
def test_pictures_and_landmarks_are_cropped_alike(zoom):
    """A bright dot's centroid in the crop is where its landmark goes, to a fraction of a crop pixel."""
    frame = np.zeros((400, 400, 3), np.uint8)
    frame[190:206, 150:166] = 255  # centred on (158, 198)
    affine = np.array([[zoom, 0, 30 - zoom * 150], [0, zoom, 40 - zoom * 190]], np.float32)
    crop = crop_frame(frame, affine, 96)[..., 0].astype(float)
    y, x = np.mgrid[:96, :96] + 0.5
    centroid = np.array([(crop * x).sum(), (crop * y).sum()]) / crop.sum()
    expected = crop_landmarks(np.array([[[158, 198, 0]]], np.float32), affine[None])[0, 0, :2]
    assert np.abs(centroid - expected).max() < 0.1


def test_crop_round_trip_of_a_picture():
    """Out and back again: content moves by less than half a pixel (here: values hardly change)."""
    frame = smooth_picture(300, 300)
    affine = np.array([[0.64, 0, -0.64 * 50.3], [0, 0.64, -0.64 * 40.8]], np.float32)
    crop = crop_frame(frame, affine, 128)
    inverse = np.array([[1 / 0.64, 0, 50.3], [0, 1 / 0.64, 40.8]], np.float32)
    back = resample(crop, inverse, (300, 300)).astype(float)[60:220, 70:230]
    errors = {}
    for dx in (-0.5, 0, 0.5):
        moved = resample(frame, np.array([[1, 0, dx], [0, 1, 0]], np.float32), (300, 300)).astype(float)
        errors[dx] = np.abs(back - moved[60:220, 70:230]).mean()
    assert min(errors, key=lambda dx: errors[dx]) == 0
    assert errors[0] < 1.0


def test_shrinking_counts_every_pixel():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (512, 512, 3)).astype(np.uint8)
    small = resample(noise, np.array([[0.125, 0, 0], [0, 0.125, 0]], np.float32), (64, 64))
    blocks = noise.reshape(64, 8, 64, 8, 3).mean((1, 3))
    assert np.abs(small - blocks).max() <= 2


def test_an_unchanged_crop_is_the_picture_itself():
    frame = smooth_picture(64, 64)
    np.testing.assert_array_equal(crop_frame(frame, np.array([[1, 0, 0], [0, 1, 0]], np.float32), 64), frame)


def test_edges_are_repeated_outside():
    frame = np.full((20, 20, 3), 7, np.uint8)
    frame[:, :3] = 200
    crop = crop_frame(frame, np.array([[1, 0, 30], [0, 1, 10]], np.float32), 64)
    assert (crop[:, :30] == 200).all()
    assert (crop[:, 50:] == 7).all()


def test_nonsense_is_refused():
    for bad in ({"size": 4}, {"scale": 0}, {"position": "wander"}):
        with pytest.raises(ValueError, match=r"size|scale|position"):
            CropConfig(**bad)
