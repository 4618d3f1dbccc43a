"""Motion compared by finding faces anew: constructed tracks with known answers, and a real clip against itself."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from svdp.errors import NoFaceError
from svdp.evaluation.redetection import (
    MEASURES,
    blink,
    compare_tracks,
    gaze_sideways,
    gaze_up,
    redetect,
    track_errors,
)
from svdp.signals.track import BLENDSHAPES, FaceTrack, track_faces
from svdp.signals.video import Timing, VideoReader, VideoWriter

NAMES = [measure.name for measure in MEASURES]
CLIP = "clips/LivePortrait__assets-examples-driving-d11.mp4"


def made_track(num_frames: int = 48, seed: int = 0) -> FaceTrack:
    """A face that yaws by a sine of 20 degrees while everything else moves at random."""
    rng = np.random.default_rng(seed)
    yaw = np.radians(20) * np.sin(np.arange(num_frames) / 5)
    matrices = np.tile(np.eye(4, dtype=np.float32), (num_frames, 1, 1))
    matrices[:, 0, 0] = matrices[:, 2, 2] = np.cos(yaw)
    matrices[:, 0, 2], matrices[:, 2, 0] = np.sin(yaw), -np.sin(yaw)
    landmarks = rng.normal(100, 20, (num_frames, 478, 3)).astype(np.float32)
    blendshapes = rng.random((num_frames, 52), np.float32)
    return FaceTrack(landmarks, blendshapes, matrices, np.ones(num_frames, bool), (200, 200))


def test_a_track_follows_itself():
    track = made_track()
    moving = {name: score for name, score in compare_tracks(track, track).items() if name not in ("pitch", "roll")}
    assert all(score.value == pytest.approx(1) for score in moving.values())
    assert compare_tracks(track, track)["roll"].reason == "the driver holds still"


def test_other_motion_does_not_correlate_but_the_same_yaw_does():
    scores = compare_tracks(made_track(seed=0), made_track(seed=1))
    assert scores["yaw"].value == pytest.approx(1)
    assert all(abs(scores[name].value) < 0.5 for name in ("mouth_open", "blink", "gaze_sideways", "gaze_up"))


def test_errors_are_the_known_differences():
    driver, result = made_track(), made_track()
    turn = np.radians(6)
    cos, sin = np.cos(turn), np.sin(turn)
    result.matrices[:] = np.array([[cos, 0, sin, 0], [0, 1, 0, 0], [-sin, 0, cos, 0], [0, 0, 0, 1]]) @ result.matrices
    shapes = [BLENDSHAPES.index(f"eyeBlink{side}") for side in ("Left", "Right")]
    driver.blendshapes[:, shapes], result.blendshapes[:, shapes] = 0.3, 0.5
    errors = track_errors(driver, result)
    assert errors["yaw"].value == pytest.approx(6, abs=1e-3)
    assert errors["blink"].value == pytest.approx(0.2, abs=1e-6)
    assert errors["mouth_open"].value == pytest.approx(0, abs=1e-6)
    result.present[:] = False
    assert track_errors(driver, result)["yaw"].counted == float("inf")


def test_interpolated_frames_are_left_out_on_both_sides():
    driver, result = made_track(), made_track()
    driver.matrices[5], result.matrices[9] = result.matrices[30], driver.matrices[25]
    assert compare_tracks(driver, result)["yaw"].value < 0.999
    driver.present[5] = result.present[9] = False
    assert compare_tracks(driver, result)["yaw"].value == pytest.approx(1)


def test_the_longer_end_is_left_out():
    assert compare_tracks(made_track(48), made_track(48)[:40])["yaw"].value == pytest.approx(1)


def test_blink_and_gaze_have_the_signs_they_say():
    track = made_track(1)
    shapes = np.zeros((1, 52), np.float32)
    for name in ("eyeBlinkLeft", "eyeLookOutLeft", "eyeLookInRight", "eyeLookUpLeft", "eyeLookUpRight"):
        shapes[0, BLENDSHAPES.index(name)] = 0.8
    track.blendshapes[:] = shapes
    assert blink(track)[0] == pytest.approx(0.4)
    assert gaze_sideways(track)[0] == pytest.approx(0.8)  # the left eye outwards, the right eye inwards: to the left
    assert gaze_up(track)[0] == pytest.approx(0.8)


def test_a_result_without_a_face_counts_as_failed():
    frames = [np.zeros((64, 64, 3), np.uint8)] * 3
    found = redetect(iter(frames), made_track(), 25.0)
    assert (found.result_frames, found.driver_frames, found.faces, found.frames_equal) == (3, 48, 0.0, False)
    assert {score.reason for score in found.correlations.values()} == {"no face in the result"}
    assert {score.counted for score in found.correlations.values()} == {0.0}
    assert {score.counted for score in found.errors.values()} == {float("inf")}


def test_a_driver_without_a_face_is_an_error():
    with pytest.raises(NoFaceError):
        redetect([], [np.zeros((64, 64, 3), np.uint8)] * 3, 25.0)


@pytest.fixture(scope="module")
def clip(shared_dir: Path) -> list[np.ndarray]:
    """36 lively frames: yaw, roll, mouth, gaze and a blink all move."""
    return list(VideoReader(shared_dir / CLIP, start=108, max_frames=36))


@pytest.fixture(scope="module")
def driver(clip: list[np.ndarray]) -> FaceTrack:
    """The unsmoothed track of the clip, found once."""
    return track_faces(clip, 25.0, smoothing=None)


@pytest.mark.shared
def test_a_real_clip_follows_itself_through_h264(clip: list[np.ndarray], driver: FaceTrack, tmp_path: Path):
    rate = Fraction(25)
    ticks = tuple(range(len(clip)))
    timing = Timing(num_frames=len(clip), fps=rate, constant=True, begin=Fraction(0), ticks=ticks, time_base=1 / rate)
    with VideoWriter(tmp_path / "again.mp4", clip[0].shape[:2], timing) as writer:
        for frame in clip:
            writer.write(frame)
    found = redetect(VideoReader(tmp_path / "again.mp4"), driver, 25.0)
    assert found.faces == found.driver_faces == 1
    assert found.frames_equal
    assert {
        name: round(found.correlations[name].value, 3) for name in NAMES if found.correlations[name].value < 0.99
    } == {}


@pytest.mark.shared
def test_frozen_and_reversed_results_do_not_pass(clip: list[np.ndarray], driver: FaceTrack):
    frozen = redetect([clip[0]] * len(clip), driver, 25.0)
    assert frozen.faces == 1
    assert {score.reason for score in frozen.correlations.values()} == {"the result holds still"}
    backwards = redetect(clip[::-1], driver, 25.0)
    assert all(backwards.correlations[name].value < 0.6 for name in ("yaw", "mouth_open", "blink"))
