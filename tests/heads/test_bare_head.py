"""The textured head as a baseline: it makes the driver's motion, and the photo stands where nothing moves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from svdp.heads.bare_head import motion_of, perform
from svdp.heads.scene import Rig, make_portrait
from svdp.signals.crops import CropConfig, plan_crop
from svdp.signals.images import load_image
from svdp.signals.track import FaceTrack, detect_face, track_faces
from svdp.signals.video import VideoReader
from svdp.training.data.identities import open_rig
from svdp.training.data.sources import DataConfig

SIZE = 128


@pytest.fixture(scope="module")
def rig(shared_dir: Path) -> Rig:
    head = str(shared_dir / "models" / "ict_light_f16.npz")
    return open_rig(DataConfig(autoencoder="", media=(), roots={}, head_model=head, size=SIZE))


@pytest.fixture(scope="module")
def driver(assets_dir: Path) -> FaceTrack:
    frames = list(VideoReader(assets_dir / "examples" / "driving2.mp4", max_frames=64))[::2]
    return track_faces(frames, 12.5, smoothing=None)


@pytest.mark.shared
def test_motion_is_counted_from_the_crop(rig: Rig, driver: FaceTrack):
    motion = motion_of(rig.model, driver, SIZE, rig.crop_scale)
    assert len(motion) == driver.num_frames
    assert np.abs(np.median(motion.shift, axis=0)).max() < 0.02  # the crop follows the usual place
    assert np.median(motion.zoom) == pytest.approx(1, abs=0.1)
    right = replace(driver, landmarks=driver.landmarks.copy())
    side = SIZE / plan_crop(driver, CropConfig(size=SIZE)).affines[0, 0, 0]
    right.landmarks[-8:, :, 0] += 0.1 * side  # a few frames, so that the crop stays
    moved = motion_of(rig.model, right, SIZE, rig.crop_scale)
    np.testing.assert_allclose(moved.shift[-8:, 0] - motion.shift[-8:, 0], 0.1, atol=0.02)
    np.testing.assert_array_equal(moved.expression, motion.expression)


@pytest.mark.shared
def test_the_head_follows_the_driver(rig: Rig, driver: FaceTrack, assets_dir: Path):
    photo = load_image(assets_dir / "examples" / "source.jpg")
    portrait = make_portrait(rig, "photo", photo, detect_face(photo))
    squares = list(perform(rig, portrait, driver))
    assert (len(squares), squares[0].shape, squares[0].dtype) == (driver.num_frames, (SIZE, SIZE, 3), np.uint8)
    found = track_faces(squares, 12.5, smoothing=None)
    assert found.present.all()
    assert np.corrcoef(found.euler[:, 0], driver.euler[:, 0])[0, 1] > 0.9
    assert np.corrcoef(found.mouth_open, driver.mouth_open)[0, 1] > 0.9
