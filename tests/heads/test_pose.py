"""A portrait on the bundled head: posed by its own face it is itself, posed by a clip it follows."""

from dataclasses import replace

import numpy as np
import pytest
from svdp.errors import NoFaceError
from svdp.heads import pose
from svdp.heads.fit import rotation_matrix
from svdp.heads.pose import PosedPortrait
from svdp.heads.scene import shell_seen
from svdp.signals.crops import CropConfig, crop_frame, crop_landmarks, plan_crop
from svdp.signals.images import load_image
from svdp.signals.track import detect_face, track_faces
from svdp.signals.video import VideoReader

SIZE, SCALE = 192, 1.5


@pytest.fixture(scope="module")
def portrait(assets_dir):
    picture = load_image(assets_dir / "examples" / "source.jpg")
    face = detect_face(picture)
    return picture, face, PosedPortrait(picture, face, SIZE, SCALE)


def test_posed_by_its_own_face_it_is_the_photo(portrait):
    picture, face, posed = portrait
    crop = plan_crop(face, CropConfig(size=SIZE, scale=SCALE))
    marks = crop_landmarks(face.landmarks, crop.affines)
    (frame,) = posed.pose(marks, face.blendshapes)
    truth = crop_frame(picture, crop.affines[0], SIZE)
    x, y = marks[0, :, :2].T.clip(0, SIZE - 1).astype(int)
    gap = np.abs(frame.picture.astype(float) - truth)[y, x]
    assert np.median(gap) < 12
    assert frame.known.mean() > 0.8 * 255


def test_it_follows_a_clip(portrait, assets_dir):
    _, _, posed = portrait
    reader = VideoReader(assets_dir / "examples" / "driving.mp4", max_frames=24)
    track = track_faces(reader, 25.0)
    crop = plan_crop(track, CropConfig(size=SIZE, scale=SCALE))
    frames = list(posed.pose(crop_landmarks(track.landmarks, crop.affines), track.blendshapes))
    assert len(frames) == 24
    found = track_faces((f.picture for f in frames), 25.0)
    assert found.present.mean() > 0.9
    for wanted, got in ((track.mouth_open, found.mouth_open), (track.euler[:, 2], found.euler[:, 2])):
        assert np.corrcoef(wanted, got)[0, 1] > 0.8


def test_a_profile_is_refused(portrait):
    picture, face, _ = portrait
    turn = np.radians(60)
    turned = face.matrices.copy()
    turned[0, :3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    with pytest.raises(NoFaceError, match="turned by 60 degrees"):
        PosedPortrait(picture, replace(face, matrices=turned), SIZE, SCALE)


def test_the_fit_refuses_what_the_detector_takes_for_less(portrait, monkeypatch):
    picture, face, posed = portrait
    fit = posed.subject.place.fit
    camera = replace(fit.camera, rotation=rotation_matrix(50, 0, 0))
    monkeypatch.setattr(pose, "fit_face", lambda *_: replace(fit, camera=camera))
    with pytest.raises(NoFaceError, match="turned by 50 degrees"):
        PosedPortrait(picture, face, SIZE, SCALE)


def test_hair_that_the_photo_hides_is_not_carried_along(portrait):
    """Of a half profile the shell's far side; all of it is seen from the front, and up to ten degrees off."""
    _, _, posed = portrait
    camera, across = posed.subject.place.fit.camera, posed.rig.parts.shell[:, 0]
    for yaw in (-10, 0, 10):
        assert (shell_seen(posed.rig, replace(camera, rotation=rotation_matrix(yaw, 0, 0))) == 1).all()
    for yaw in (-30, 30):
        seen = shell_seen(posed.rig, replace(camera, rotation=rotation_matrix(yaw, 0, 0)))
        outer = np.abs(across) > 9
        far = outer & (np.sign(across) == np.sign(yaw))
        assert seen[far].mean() < 0.1 and (seen[outer & ~far] == 1).all()
