"""What is measured of whole videos: squares in the right place, and answers known for shifted, frozen, flickering and
swapped results. The face is found for real, in the bundled examples."""

from pathlib import Path

import numpy as np
import pytest
from svdp.errors import MediaError
from svdp.evaluation.heldout import POOLED, HeldoutClip, evaluate_clip, pool
from svdp.evaluation.protocol import COLUMNS, STATIC, TRUE, Identity, evaluate_frames, still_track
from svdp.evaluation.video import MeasuredVideo, best_source_frame, frame_series, square_of_result, whole_frame
from svdp.signals.crops import Crop, CropConfig, crop_frame, plan_crop
from svdp.signals.images import load_image
from svdp.signals.paste import paste_back
from svdp.signals.track import FaceTrack, detect_face, track_faces
from svdp.signals.video import VideoReader

SIZE, FRAMES = 128, 24


@pytest.fixture(scope="module")
def clip(assets_dir: Path) -> list[np.ndarray]:
    return list(VideoReader(assets_dir / "examples" / "driving.mp4", max_frames=FRAMES))


@pytest.fixture(scope="module")
def stranger(assets_dir: Path) -> np.ndarray:
    return load_image(assets_dir / "examples" / "source.jpg")


class GreyEmbedder:
    """Persons differ by the brightness of their face."""

    name, same_from = "grey", 0.5

    def embed(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        x, y = np.clip(landmarks[4, :2].astype(int), 8, min(picture.shape[:2]) - 8)
        angle = picture[y - 4 : y + 4, x - 4 : x + 4].mean() / 255 * np.pi
        return np.float32([np.cos(angle), np.sin(angle)])


def test_squares_are_cut_where_the_crop_says():
    frames = np.random.default_rng(0).integers(0, 255, (2, 40, 60, 3)).astype(np.uint8)
    affines = np.float32([[[1, 0, -10], [0, 1, -5]]])
    squares = list(MeasuredVideo(frames, Crop(affines, 16)).squares())
    np.testing.assert_array_equal(squares, frames[:, 5:21, 10:26])
    whole = frames[:, :, :40]
    np.testing.assert_array_equal(list(MeasuredVideo(whole, whole_frame(40, 40)).squares()), whole)


def test_a_result_is_pasted_into_the_source_or_a_square():
    source = Crop(np.float32([[[2, 0, 1], [0, 2, 1]]]), 128)
    picture = np.zeros((301, 201, 3), np.uint8)
    assert square_of_result(np.zeros((302, 202, 3)), picture, source) is source
    np.testing.assert_array_equal(square_of_result(np.zeros((64, 64, 3)), picture, source).affines[0], 2 * np.eye(2, 3))
    with pytest.raises(MediaError, match="200x100"):
        square_of_result(np.zeros((100, 200, 3)), picture, source)


def test_series_of_a_flickering_result():
    rng = np.random.default_rng(0)
    truth = [np.uint8(np.kron(rng.integers(60, 180, (8, 8, 3)), np.ones((8, 8, 1))))] * 4
    result = [truth[0] + np.uint8(10 * (t % 2)) for t in range(4)]
    series = frame_series(result, truth[:3])
    np.testing.assert_allclose(series["change"], 10 / 255)
    np.testing.assert_allclose(series["warping_error"], (10 / 255) ** 2, rtol=0.05)
    np.testing.assert_allclose(series["l1"], [0, 10 / 255, 0, np.nan])
    assert np.isfinite(series["tof"]).tolist() == [True, True, False]
    assert series["colour"].shape == (4, 3)


@pytest.fixture(scope="module")
def track(clip: list[np.ndarray]) -> FaceTrack:
    return track_faces(clip, 25.0, smoothing=None)


@pytest.fixture(scope="module")
def squares(clip: list[np.ndarray], track: FaceTrack) -> list[np.ndarray]:
    """What a perfect model would make in self-reenactment: the driver's own squares."""
    return list(MeasuredVideo(clip, plan_crop(track, CropConfig(size=SIZE))).squares())


def test_the_best_source_frame_is_cropped_like_the_clip(track: FaceTrack):
    rule = CropConfig(size=SIZE)
    whole = plan_crop(track, rule).affines[0]

    def distance(t: int) -> float:
        return float(np.abs(plan_crop(track[t], rule).affines[0] - whole)[:, 2].max())

    best = best_source_frame(track, rule)
    assert distance(best) < 3
    assert distance(best) < 0.5 * max(distance(t) for t in range(FRAMES))


def test_self_reenactment_of_a_perfect_result(clip: list[np.ndarray], track: FaceTrack, squares: list[np.ndarray]):
    """The true squares, pasted into the source's place as an animation does it, are as good as it gets."""
    rule = CropConfig(size=SIZE)
    source = clip[best_source_frame(track, rule)]
    affine = plan_crop(detect_face(source), rule).affines[0]
    result = [paste_back(source, square, affine)[0] for square in squares]
    runs = evaluate_frames("perfect", result, source, clip, 25.0, rule=rule, target=clip, segment_length=8)
    own, still, true = runs
    assert [run.method for run in runs] == ["", STATIC, TRUE]
    assert own.scores["faces"].value == 1
    assert all(own.scores[key].value > 0.9 for key in ("yaw", "mouth_open"))
    assert own.scores["yaw_error"].value < 0.7 * still.scores["yaw_error"].value
    assert own.scores["psnr"].value > still.scores["psnr"].value + 3
    assert own.scores["ssim"].value > 0.9 > still.scores["ssim"].value
    assert own.scores["tof"].value < 0.5 * still.scores["tof"].value
    assert still.scores["warping_error"].value == 0
    assert true.scores["yaw"].value == pytest.approx(1)
    assert "psnr" not in true.scores
    assert {run.scores["csim_source"].reason for run in runs} == {"no embedder was given"}
    assert "csim_driver" not in own.scores
    assert own.checks == {"frames": True}
    assert {column.key for column in COLUMNS} - set(own.scores) == {"csim_driver", "csim_margin"}
    assert still.scores["yaw"].reason == "the result holds still"


def test_cross_reenactment_that_turns_into_the_driver(
    clip: list[np.ndarray], squares: list[np.ndarray], stranger: np.ndarray
):
    """The result is the driver itself: its motion is perfect and its identity the wrong one."""
    portrait = np.uint8(np.clip(stranger.astype(int) + 60, 0, 255))  # a bright person, for the embedder used here
    runs = evaluate_frames(
        "leak", squares, portrait, clip, 25.0, rule=CropConfig(size=SIZE), compare={"again": squares},
        identity=Identity(GreyEmbedder(), ""), segment_length=16,
    )  # fmt: skip
    own, still, again = runs
    assert [run.method for run in runs] == ["", STATIC, "again"]
    assert own.scores["csim_driver"].value > 0.95 > own.scores["csim_source"].value
    assert own.scores["csim_margin"].value < 0 < still.scores["csim_margin"].value
    assert still.scores["csim_source"].value == pytest.approx(1, abs=1e-5)
    assert again.scores["csim_driver"] == own.scores["csim_driver"]
    assert own.scores["yaw"].value > 0.9
    assert own.details["embedder"] == {"name": "grey", "same_person_from": 0.5}
    assert "psnr" not in own.scores
    assert not np.isnan(own.scores["seam"].value)  # one border, at frame 16


def test_a_result_without_a_face_fails_everywhere(clip: list[np.ndarray]):
    grey = [np.full((SIZE, SIZE, 3), 128, np.uint8)] * FRAMES
    identity = Identity(GreyEmbedder(), "")
    own, _ = evaluate_frames("grey", grey, clip[0], clip, 25.0, rule=CropConfig(size=SIZE), identity=identity)
    assert own.scores["faces"].value == 0
    assert {own.scores[key].counted for key in ("yaw", "csim_source", "csim_margin", "csim_kept")} == {0.0}
    assert own.scores["csim_driver"].counted is None


def heldout_clip(clip: list[np.ndarray], result: list[np.ndarray]) -> HeldoutClip:
    affine = plan_crop(detect_face(clip[0]), CropConfig(size=SIZE)).affines[0]
    cut = lambda frames: np.stack([crop_frame(frame, affine, SIZE) for frame in frames])  # noqa: E731
    return HeldoutClip(name="c", source=cut(clip[:1])[0], truth=cut(clip), result=cut(result), details={"seed": 3})


def test_heldout_clips_are_held_against_their_true_frames(clip: list[np.ndarray]):
    own, still, true = evaluate_clip(heldout_clip(clip, clip), segment_length=8)
    assert (own.method, still.method, true.method) == ("", STATIC, TRUE)
    assert (own.scores["psnr"].value, own.scores["tof"].value) == (100, 0)
    assert own.scores["yaw"].value == true.scores["yaw"].value == pytest.approx(1)
    assert still.scores["psnr"].value < 30
    assert own.details["seed"] == 3


def test_pooled_correlation_counts_what_differs_between_clips(clip: list[np.ndarray]):
    frozen = [clip[0]] * FRAMES
    good = evaluate_clip(heldout_clip(clip, clip))[0]
    bad = evaluate_clip(heldout_clip(clip, frozen))[0]
    assert pool([good]).method == POOLED
    assert pool([good]).scores["yaw"].value == pytest.approx(1)
    assert 0 < pool([good, bad]).scores["yaw"].value < 1
    assert pool([]).scores["yaw"].reason == "nothing to correlate"


def test_still_track_is_one_frame_many_times(clip: list[np.ndarray]):
    track = detect_face(clip[0])
    held = still_track(track, 5)
    assert isinstance(held, FaceTrack)
    assert held.num_frames == 5
    np.testing.assert_array_equal(held.landmarks[4], track.landmarks[0])
