"""Landmarks that another detector found become the track that our own would have given."""

import numpy as np
import pytest
from svdp.errors import NoFaceError, UserError
from svdp.signals.crops import CropConfig, crop_frame, mask_frame, plan_crop, plan_squares
from svdp.signals.detector import BLENDSHAPES
from svdp.signals.landmarks import track_from_landmarks
from svdp.signals.paste import paste_back, scaled_affine
from svdp.signals.track import describe_track

from .conftest import make_landmarks, make_track, rotation, smooth_picture

TURN = rotation(roll=11)[:2, :2]


def face(**place) -> dict:
    """A face as ComfyUI's node gives it: the depth in units of the landmark model, its picture turned and scaled."""
    points = make_landmarks(**place)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(**{k: v for k, v in place.items() if k in ("yaw", "pitch", "roll")})
    deep = np.concatenate([points[:, :2] @ TURN, points[:, 2:]], axis=1) * 0.37 + (20, 30, 0)
    return {
        "landmarks_xy": points[:, :2],
        "landmarks_3d": deep,
        "blendshapes": {"jawOpen": 0.5},
        "transformation_matrix": matrix,
    }


def found(*frames: list[dict]) -> dict:
    return {"frames": list(frames), "image_size": (480, 640)}


def test_points_depth_angles_and_shapes_are_kept():
    track = track_from_landmarks(found([face(yaw=20)], [face(x=260, yaw=25)]), 25, smoothing=None)
    np.testing.assert_allclose(track.landmarks[0], make_landmarks(yaw=20), atol=0.01)
    np.testing.assert_allclose(track.euler[:, 0], [20, 25], atol=1e-3)
    assert track.image_size == (480, 640)
    assert track.blendshapes[0, BLENDSHAPES.index("jawOpen")] == 0.5


def test_missing_frames_are_interpolated_and_one_of_several_faces_is_followed():
    left, right = face(x=150, size=100), face(x=450, size=150)
    track = track_from_landmarks(found([left, right], [], [right, left]), 25, select="left", smoothing=None)
    assert track.missing == [1]
    np.testing.assert_allclose(track.landmarks[1], make_landmarks(x=150, size=100), atol=0.01)
    assert "face seen in 2" in describe_track(track) and "interpolated: 1" in describe_track(track)


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(NoFaceError, match="no face in any of 2 frames"):
        track_from_landmarks(found([], []), 25)
    with pytest.raises(UserError, match="3 images but landmarks of 1"):
        track_from_landmarks(found([face()]), 25, num_frames=3)
    short = {**face(), "landmarks_xy": np.zeros((68, 2))}
    with pytest.raises(UserError, match=r"478 points .* \(68, 2\)"):
        track_from_landmarks(found([short]), 25)


def test_a_mask_over_the_face_gives_about_the_same_crop_as_its_track():
    landmarks = make_landmarks(x=300, y=240, size=200)
    oval = np.zeros((3, 480, 640), np.float32)
    rows, columns = np.mgrid[:480, :640]
    oval[[0, 2]] = (((columns - 300) / 100) ** 2 + ((rows - 240) / 120) ** 2 < 1).astype(np.float32)
    by_mask = plan_squares(*mask_frame(oval), CropConfig())  # frame 1 is empty: interpolated
    by_track = plan_crop(make_track(np.stack([landmarks] * 3)), CropConfig())
    assert np.ptp(by_mask.affines, axis=0).max() == 0
    assert by_mask.affines[0, 0, 0] == pytest.approx(by_track.affines[0, 0, 0], rel=0.25)
    with pytest.raises(NoFaceError, match="empty in every frame"):
        mask_frame(np.zeros((2, 8, 8), np.uint8))


def test_an_enlarged_crop_goes_back_to_its_place():
    picture = smooth_picture(300, 400)
    crop = plan_squares(np.array([[200.0, 150.0]]), np.array([60.0]), CropConfig(size=64))
    cut = crop_frame(picture, crop.affines[0], 64)
    large = np.repeat(np.repeat(cut, 4, axis=0), 4, axis=1)
    result, _ = paste_back(picture, large, scaled_affine(crop.affines[0], 256, 64), colour_match=False)
    assert np.abs(result.astype(int) - picture).mean() < 1.5
