"""The ceiling of re-detection: what is drawn is known, and found again."""

import numpy as np
import pytest
from svdp.evaluation.ceiling import known_track, measure_ceiling, posed_motion
from svdp.heads.pose import PosedPortrait
from svdp.signals.crops import CropConfig, crop_track, plan_crop
from svdp.signals.images import load_image
from svdp.signals.track import detect_face, track_faces
from svdp.signals.video import VideoReader

SIZE, SCALE, FRAMES = 160, 1.7, 16


@pytest.fixture(scope="module")
def portrait(assets_dir):
    picture = load_image(assets_dir / "examples" / "source.jpg")
    return PosedPortrait(picture, detect_face(picture), SIZE, SCALE)


@pytest.fixture(scope="module")
def driver(assets_dir):
    reader = VideoReader(assets_dir / "examples" / "driving.mp4", max_frames=FRAMES)
    track = track_faces(reader, 25.0, smoothing=None)
    return crop_track(track, plan_crop(track, CropConfig(size=SIZE, scale=SCALE)))


def test_the_known_track_is_the_motion(portrait, driver):
    motion = posed_motion(portrait, driver)
    known = known_track(portrait, motion)
    np.testing.assert_allclose(known.euler, motion.angles, atol=1e-2)
    assert known.landmarks.shape == (FRAMES, 478, 3)
    gap = np.linalg.norm((known.landmarks - driver.landmarks)[:, :468, :2], axis=2).mean(1)
    assert (gap < 0.2 * known.eye_distance).all()  # the head lies over the driver's face
    assert np.corrcoef(known.mouth_open, driver.mouth_open)[0, 1] > 0.8


def test_what_is_drawn_is_found_again(portrait, driver):
    run = measure_ceiling("pair", portrait, driver, 25.0)
    assert run.scores["faces"].value == 1
    assert run.scores["mouth_open"].value > 0.8
    assert run.scores["roll_error"].value < 3
    assert run.details["frames"] == FRAMES
