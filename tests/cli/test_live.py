"""`svdp live` from a file: played in real time, frames skipped rather than shown late, keys, refusals."""

from __future__ import annotations

import re
import sys

import cv2
import numpy as np
import pytest
from svdp.cli.live_input import CameraInput, FileInput
from svdp.cli.live_run import LiveConfig, Stage
from svdp.errors import UserError
from svdp.heads.face_motion import fit_motion, joined
from svdp.heads.live import LiveDriver
from svdp.heads.pose import PosedPortrait
from svdp.signals.crops import CropConfig, crop_landmarks, plan_crop
from svdp.signals.images import load_image
from svdp.signals.smoothing import OneEuro, OneEuroStream
from svdp.signals.track import detect_face, track_faces
from svdp.signals.video import VideoReader

SIZE, SCALE = 128, 1.7


class Clock:
    """Seconds that pass when somebody waits or works."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(scope="module")
def track(assets_dir):
    reader = VideoReader(assets_dir / "examples" / "driving.mp4", max_frames=30)
    return track_faces(reader, 30.0, smoothing=None)


@pytest.fixture(scope="module")
def head(assets_dir):
    picture = load_image(assets_dir / "examples" / "source.jpg")
    return PosedPortrait(picture, detect_face(picture), SIZE, SCALE)


def test_a_quick_viewer_sees_every_frame_when_it_is_due(examples):
    clock = Clock()
    source = FileInput(examples.driving, 6, clock, clock.wait)
    taken = list(iter(source.take, None))
    assert [t.number for t in taken] == list(range(6))
    np.testing.assert_allclose([t.due for t in taken], 100 + np.arange(6) / 30)


def test_a_slow_viewer_skips_and_does_not_fall_behind(examples):
    clock = Clock()
    source = FileInput(examples.driving, 24, clock, clock.wait)
    numbers, late = [], []
    while (taken := source.take()) is not None:
        numbers.append(taken.number)
        late.append(clock.now - taken.due)
        clock.now += 0.1001  # three frames' time
    assert numbers == [0, 3, 6, 9, 12, 15, 18, 21, 23]
    assert max(late[:-1]) < 1 / 30  # the last frame stays


def test_a_camera_gives_the_newest_frame_and_mirrors_it(examples):
    """A file read as OpenCV reads a camera: as fast as it can."""
    plain, turned = (CameraInput(cv2.VideoCapture(str(examples.driving)), mirror, 1) for mirror in (False, True))
    try:
        first, mirrored = plain.take(), turned.take()
        assert first is not None and mirrored is not None and plain.take() is turned.take() is None
        assert plain.fps == 30 and first.number == 0
        np.testing.assert_array_equal(first.picture[:, ::-1], mirrored.picture)
        seen = next(iter(VideoReader(examples.driving, max_frames=1)))
        assert np.abs(first.picture.astype(float) - seen).mean() < 6  # red is red; decoders differ a little
    finally:
        plain.close()
        turned.close()


def test_a_camera_that_ends_has_given_its_last_frame(examples):
    source = CameraInput(cv2.VideoCapture(str(examples.driving)), False, 20)
    try:
        source._thread.join(20)  # nobody looked while 20 frames came
        last = source.take()
        assert last is not None and last.number == 19 and source.take() is None
    finally:
        source.close()
    assert not source._thread.is_alive()


def test_a_stream_is_smoothed_as_the_first_half_of_a_clip_is():
    values = np.cumsum(np.random.default_rng(0).normal(0, 1, (40, 3)), 0)
    stream, whole = OneEuroStream(), OneEuro()
    one_by_one = np.stack([stream(v, 1 / 25, 30.0) for v in values])
    np.testing.assert_allclose(one_by_one, whole._run(values, 25, 30.0), atol=1e-9)


def test_live_motion_is_that_of_the_clip(head, track):
    driver = LiveDriver(head.basis, SIZE, SCALE, 30.0)
    live = joined([driver.move(track[t], 1 / 30) for t in range(track.num_frames)])
    crop = plan_crop(track, CropConfig(size=SIZE, scale=SCALE, position="locked"))
    clip = fit_motion(head.basis, crop_landmarks(track.landmarks, crop.affines), track.blendshapes, SIZE, 30.0)
    off = (live.angles - clip.angles)[6:]
    assert np.abs(off - off.mean(0)).mean() < 1.5  # degrees; a constant part is the other square's
    jaw = head.basis.names.index("jawOpen")
    assert np.corrcoef(live.expression[6:, jaw], clip.expression[6:, jaw])[0, 1] > 0.9
    assert live.size[-1] == pytest.approx(clip.size[-1], rel=0.1)


def test_neutral_pose_and_strength(head, track, examples):
    cfg = LiveConfig(source=examples.source, size=SIZE)
    clock = Clock()
    stage = Stage(cfg, head, FileInput(examples.driving, 3, clock, clock.wait), screen=None)  # type: ignore[arg-type]
    rest = stage.picture(None).astype(float)
    driver = LiveDriver(head.basis, SIZE, SCALE, 30.0)
    first, later = (driver.move(track[t], 1 / 30) for t in (0, 25))
    gap = lambda picture: np.abs(picture - rest).mean()  # noqa: E731
    assert gap(stage.picture(first)) < 0.5  # the first pose is the neutral one
    moved = gap(stage.picture(later))
    assert moved > 1
    for _ in range(10):
        assert stage._obey("-")
    assert stage.strength == pytest.approx(0) and gap(stage.picture(later)) < 0.5
    for _ in range(10):
        stage._obey("+")
    assert gap(stage.picture(later)) == pytest.approx(moved)
    stage._obey("n")
    assert gap(stage.picture(later)) < 0.5  # the pose of now is the neutral one
    assert stage._obey("a") and stage.mode == "absolute" and not stage._obey("q")


def test_a_file_in_and_a_file_out(svdp, examples, tmp_path):
    options = ("-s", examples.source, "-i", examples.driving, "-o", tmp_path / "out.mp4", "--resolution", SIZE)
    code, said = svdp("live", *options, "--max-frames", 45)
    assert code == 0, said
    found = re.search(r"(\d+) of (\d+) frames shown \((\d+) % skipped\), [\d.]+ frames/s, delay (\d+) ms", said)
    assert found, said
    shown, seen, skipped = (int(found[n]) for n in (1, 2, 3))
    assert 0 < shown <= seen <= 45 and skipped == round(100 * (1 - shown / seen))
    reader = VideoReader(tmp_path / "out.mp4")
    assert reader.num_frames == seen and reader.info.fps == 30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-i", "gone.mp4"), "video gone.mp4 does not exist"),
        (("-i", "97"), "camera 97 cannot be opened"),
        (("--motion", "wild"), "unknown motion 'wild'"),
        (("--edit", "head@0"), "a live motion has no frame to hold"),
    ],
)
def test_refusals(svdp, examples, tmp_path, options, said):
    code, told = svdp("live", "-s", examples.source, "-o", tmp_path / "out.mp4", "--resolution", SIZE, *options)
    assert code == 2 and said in told
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a screen")
def test_without_a_display_it_says_what_to_do(svdp, examples, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    code, told = svdp("live", "-s", examples.source, "-i", examples.driving, "--resolution", SIZE)
    assert code == 2 and "no window can be opened here: write to a file with -o" in told


def test_a_held_frame_is_refused_in_settings(examples):
    with pytest.raises(UserError, match="unknown control"):
        LiveConfig(source=examples.source, edit="grin=1")
