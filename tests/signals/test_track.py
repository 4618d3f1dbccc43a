"""Following a face, with a detector that plays back constructed faces."""

import subprocess
import sys
import weakref

import numpy as np
import pytest
from svdp.errors import NoFaceError, UserError
from svdp.signals import detector as detector_module
from svdp.signals.detector import BLENDSHAPES, Detection, check_mediapipe_version, overlap, without_doubles
from svdp.signals.track import FaceTrack, OneEuro, frame_ranges, track_faces

from .conftest import make_detection, make_landmarks, make_track, rotation

SIZE = (512, 640)


class Playback:
    """A FaceDetector that knows the faces of each frame beforehand."""

    def __init__(self, faces: list[list[Detection]]):
        self.faces, self.times, self.closed = faces, [], False

    def detect(self, frame: np.ndarray, timestamp_ms: int) -> list[Detection]:
        self.times.append(timestamp_ms)
        return self.faces[len(self.times) - 1]

    def __enter__(self) -> "Playback":
        return self

    def __exit__(self, *_) -> None:
        self.closed = True


def track(faces: list[list[Detection]], **options) -> FaceTrack:
    frames = (np.zeros((*SIZE, 3), np.uint8) for _ in faces)
    return track_faces(frames, 25.0, detector=Playback(faces), **{"smoothing": None, **options})


@pytest.mark.parametrize("angles", [(30.0, 0.0, 0.0), (0.0, -20.0, 0.0), (0.0, 0.0, 15.0), (-35.0, 12.0, 8.0)])
def test_euler_of_a_known_rotation(angles):
    face = make_track(make_landmarks()[None])
    face.matrices[0, :3, :3] = rotation(*angles) * 7.3  # the head matrix may carry a scale
    np.testing.assert_allclose(face.euler[0], angles, atol=1e-3)


def test_measures_of_a_known_face():
    face = make_track(np.stack([make_landmarks(size=100), make_landmarks(size=100, yaw=30)]))
    np.testing.assert_allclose(face.eye_distance, [68, 68], rtol=1e-5)
    np.testing.assert_allclose(face.mouth_open[0], 0.04 / 0.36, rtol=1e-5)
    points = face.landmarks[0, :, :2]
    np.testing.assert_array_equal(face.boxes[0], [*points.min(0), *points.max(0)])
    assert len(BLENDSHAPES) == len(set(BLENDSHAPES)) == face.blendshapes.shape[1]


def test_parts_of_a_track_are_tracks():
    face = track([[make_detection(x=200 + t)] for t in range(6)])
    assert face[2:5].num_frames == 3
    assert face[4].num_frames == 1
    np.testing.assert_array_equal(face[np.array([5, 0])].landmarks, face.landmarks[[5, 0]])


def test_missing_frames_of_linear_motion_are_interpolated_exactly_and_listed():
    faces = [[make_detection(x=100 + 4 * t, y=300 - 2 * t)] for t in range(8)]
    complete = track(faces)
    holed = track([[] if t in (2, 3, 5) else found for t, found in enumerate(faces)])
    assert holed.missing == [2, 3, 5]
    assert complete.missing == []
    np.testing.assert_allclose(holed.landmarks, complete.landmarks, atol=1e-3)
    np.testing.assert_allclose(holed.blendshapes, complete.blendshapes, atol=1e-6)


def test_turns_are_interpolated_as_turns():
    faces = [[make_detection(yaw=-20)], [], [make_detection(yaw=20)]]
    np.testing.assert_allclose(track(faces).euler[:, 0], [-20, 0, 20], atol=1e-3)


def test_one_face_in_a_hundred_frames_is_enough():
    found = track([[make_detection()] if t == 61 else [] for t in range(100)])
    assert found.num_frames == 100
    assert frame_ranges(found.missing) == "0-60, 62-99"
    np.testing.assert_array_equal(found.landmarks, np.broadcast_to(found.landmarks[61], found.landmarks.shape))


@pytest.mark.parametrize(
    ("select", "expected_x"), [("largest", 320), ("left", 100), ("right", 520), ("0", 100), ("1", 320), ("2", 520)]
)
def test_selection_among_several_faces(select, expected_x):
    people = [make_detection(x=320, size=180), make_detection(x=100, size=120), make_detection(x=520, size=140)]
    found = track([people, people[::-1], people], select=select)
    np.testing.assert_allclose(found.landmarks[:, 10, 0], expected_x, atol=1)


def test_the_face_is_followed_by_overlap_when_another_grows_larger():
    ours = [make_detection(x=150 + t, size=160) for t in range(10)]
    other = [make_detection(x=480, size=100 + 12 * t) for t in range(10)]
    found = track([[b, a] for a, b in zip(ours, other, strict=True)], select="left")
    np.testing.assert_allclose(found.landmarks[:, 10, 0], [150 + t for t in range(10)], atol=1)


def test_the_other_person_does_not_fill_the_gap():
    ours, other = make_detection(x=150, size=200), make_detection(x=480, size=100)
    assert track([[ours, other], [other], [ours, other]]).missing == [1]


def test_a_face_that_comes_back_elsewhere_is_the_same_person():
    found = track([[make_detection(x=120, size=100)]] * 3 + [[]] * 2 + [[make_detection(x=500, size=100)]] * 3)
    assert found.missing == [3, 4]
    np.testing.assert_allclose(found.landmarks[[0, 7], 10, 0], [120, 500], atol=1)


def test_a_number_beyond_the_faces_names_how_many_there_are():
    with pytest.raises(NoFaceError, match="at most 1 "):
        track([[make_detection()]], select="1")


def test_unknown_selection_names_the_choices():
    with pytest.raises(UserError, match="largest, left, right"):
        track([[make_detection()]], select="tallest")


def test_no_face_names_the_remedy():
    with pytest.raises(NoFaceError, match=r"no face found in any of 3 frames of 640x512 pixels; use a picture"):
        track([[], [], []])


def test_no_frames_at_all():
    with pytest.raises(NoFaceError, match="no frames"):
        track([])


def test_frames_are_checked():
    with pytest.raises(ValueError, match="frame 0 is"):
        track_faces([np.zeros((4, 4), np.uint8)], 25.0, detector=Playback([[]]))
    with pytest.raises(ValueError, match="fps"):
        track_faces([], 0.0, detector=Playback([]))
    grown = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)]
    with pytest.raises(UserError, match="from 8x8 to 9x8 at frame 1"):
        track_faces(grown, 25.0, detector=Playback([[], []]))


def test_frames_are_not_kept():
    alive: list[weakref.ref] = []

    def frames():
        for _ in range(5):
            frame = np.zeros((*SIZE, 3), np.uint8)
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            assert sum(ref() is not None for ref in alive) <= 1

    track_faces(frames(), 25.0, detector=Playback([[make_detection()]] * 5))
    assert all(ref() is None for ref in alive)


def test_timestamps_progress_and_closing():
    playback, seen = Playback([[make_detection()]] * 4), []
    track_faces((np.zeros((*SIZE, 3), np.uint8) for _ in range(4)), 12.5, detector=playback, on_frame=seen.append)
    assert playback.times == [0, 80, 160, 240]
    assert seen == [0, 1, 2, 3]
    assert playback.closed


def test_smoothing_calms_landmarks_only():
    rng = np.random.default_rng(0)
    faces = [[make_detection(x=256 + rng.normal(0, 1), y=256 + rng.normal(0, 1))] for _ in range(40)]
    rough, smooth = track(faces), track(faces, smoothing=OneEuro())
    jitter = [np.abs(np.diff(t.landmarks[:, 10], 2, axis=0)).mean() for t in (rough, smooth)]
    assert jitter[1] < 0.6 * jitter[0]
    np.testing.assert_array_equal(rough.blendshapes, smooth.blendshapes)


def test_frame_ranges():
    assert frame_ranges([3, 4, 5, 9, 11, 12]) == "3-5, 9, 11-12"
    assert frame_ranges([]) == ""


def test_overlap_and_doubles():
    a, b = np.array([0.0, 0, 2, 2]), np.array([1.0, 0, 3, 2])
    assert overlap(a, b) == pytest.approx(1 / 3)
    assert overlap(a, b + 10) == 0
    near, far = make_detection(x=104, size=90), make_detection(x=400)
    assert without_doubles([near, make_detection(x=100, size=100), far])[0] is far
    assert len(without_doubles([near, make_detection(x=100, size=100), far])) == 2


@pytest.mark.parametrize("version", ["0.10.35", "0.11.0", "1.2.2"])
def test_mediapipe_that_reports_usage_is_refused(version, monkeypatch):
    monkeypatch.setattr(detector_module.importlib.metadata, "version", lambda name: version)
    with pytest.raises(UserError, match=f"mediapipe {version} sends usage reports.*<0.10.35"):
        check_mediapipe_version()


def test_installed_mediapipe_is_accepted():
    check_mediapipe_version()


def test_importing_signals_does_not_import_mediapipe():
    code = (
        "import sys, svdp.signals.track, svdp.signals.crops, svdp.signals.regions, svdp.signals.paste, "
        "svdp.signals.motion, svdp.signals.preview; print('mediapipe' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    if "No module named 'svdp'" in done.stderr:
        pytest.skip("svdp is not installed, only imported from the checkout")
    assert done.stdout.strip() == "False", done.stderr
