"""A good portrait raises no doubts; each flaw raises its own."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from svdp.heads.doubts import LEAST_EYES, find_doubts, look_for_doubts
from svdp.heads.fit import Camera, HeadFit, rotation_matrix
from svdp.signals.images import load_image
from svdp.signals.mirror import MirrorGap, mirror_gap
from svdp.signals.track import BLENDSHAPES, detect_face

FIT = HeadFit(np.zeros(2), np.zeros(2), Camera(np.eye(3), 5.0, np.zeros(3)), 0.02)
GOOD = MirrorGap(0.01, 0.01)


@pytest.fixture(scope="module")
def picture(assets_dir):
    return load_image(assets_dir / "examples" / "source.jpg")


@pytest.fixture(scope="module")
def face(picture):
    return detect_face(picture)


def turned(face, *angles):
    matrices = face.matrices.copy()
    matrices[0, :3, :3] = rotation_matrix(*angles)
    return replace(face, matrices=matrices)


def shaped(face, **values):
    blendshapes = face.blendshapes.copy()
    for name, value in values.items():
        blendshapes[0, BLENDSHAPES.index(name)] = value
    return replace(face, blendshapes=blendshapes)


def test_a_good_portrait_raises_none(face):
    assert find_doubts(face, FIT, GOOD) == []


def test_good_pictures_raise_none(assets_dir):
    for name in ("source.jpg", "source2.jpg"):
        picture = load_image(assets_dir / "examples" / name)
        assert look_for_doubts(picture, detect_face(picture), FIT) == []


def test_each_flaw_is_named(face):
    flaws = {
        "turned by 35": (turned(face, 35, 0, 0), FIT),
        "looks up by 30": (turned(face, 0, -30, 0), FIT),
        "looks down by 30": (turned(face, 0, 30, 0), FIT),
        "eyes are closed": (shaped(face, eyeBlinkLeft=0.8, eyeBlinkRight=0.7), FIT),
        "wide open": (shaped(face, jawOpen=0.6), FIT),
        "pixels apart": (replace(face, landmarks=face.landmarks * 0.2), FIT),
        "fit no person": (face, replace(FIT, error=0.06)),
        "turned by 40": (face, replace(FIT, camera=Camera(rotation_matrix(40, 0, 0), 5.0, np.zeros(3)))),
    }
    for said, (flawed, fit) in flaws.items():
        (doubt,) = find_doubts(flawed, fit, GOOD)
        assert said in doubt


def test_a_mask_is_seen(picture, face):
    points = face.landmarks[0, :, :2]
    left, right = points[[234, 454], 0].astype(int)
    top, bottom = points[[1, 152], 1].astype(int)
    masked = picture.copy()
    masked[top : bottom + 10, left:right] = (120, 130, 190)
    (doubt,) = look_for_doubts(masked, detect_face(masked), FIT)
    assert doubt.startswith("its mouth is hard to make out")


def test_a_picture_upside_down_is_not_a_face(picture):
    turned_over = np.ascontiguousarray(picture[::-1])
    doubts = look_for_doubts(turned_over, detect_face(turned_over), FIT)
    assert any("hard to make out" in doubt or "upside down" in doubt for doubt in doubts)


def test_a_mirrored_picture_without_the_face_is_told(face):
    (doubt,) = find_doubts(face, FIT, None)
    assert "upside down" in doubt


def test_a_small_face_is_told_as_small_alone(picture, face):
    """A face 40 pixels wide: its parts are hard to make out, too, for the same reason."""
    width = np.ptp(face.landmarks[0, :, 0])
    small = cv2.resize(picture, None, fx=40 / width, fy=40 / width, interpolation=cv2.INTER_AREA)
    track = detect_face(small)
    assert track.eye_distance[0] < LEAST_EYES
    (doubt,) = look_for_doubts(small, track, FIT)
    assert "pixels apart" in doubt


def test_the_gap_is_small_where_nothing_is_hidden(picture, face):
    gap = mirror_gap(picture, face)
    assert gap is not None
    assert 0 < gap.eyes < 0.02 and 0 < gap.mouth < 0.02
