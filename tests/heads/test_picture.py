"""The picture of the posed head: the photo where nothing moves, no burnt skin, and a mask of what the photo showed."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from svdp.heads import loops
from svdp.heads.motion import Motion
from svdp.heads.scene import (
    Portrait,
    Rig,
    Subject,
    base_affine,
    crop_points,
    draw,
    draw_known,
    make_portrait,
    move_head,
)
from svdp.heads.texture import EYE_OUTLINES, INNER_LIPS
from svdp.signals.images import load_image
from svdp.signals.track import detect_face
from svdp.training.data.identities import open_rig
from svdp.training.data.rendered_pairs import photo_crop
from svdp.training.data.sources import DataConfig

SIZE = 128


@pytest.fixture(scope="module")
def rig(shared_dir: Path) -> Rig:
    head = str(shared_dir / "models" / "ict_light_f16.npz")
    return open_rig(DataConfig(autoencoder="", media=(), roots={}, head_model=head, size=SIZE, crop_scale=1.4))


@pytest.fixture(scope="module")
def portrait(rig: Rig, assets_dir: Path) -> Portrait:
    photo = load_image(assets_dir / "examples" / "source.jpg")
    return make_portrait(rig, "photo", photo, detect_face(photo))


@pytest.fixture(scope="module")
def subject(rig: Rig, portrait: Portrait) -> Subject:
    return Subject(portrait, portrait, portrait.skin, rig.model.person(portrait.fit.identity))


def pose(rig: Rig, subject: Subject, angles=(0.0, 0.0, 0.0), **weights: float) -> np.ndarray:
    """Points of the subject with its own expression and rotation, changed by the given weights and degrees."""
    fit = subject.place.fit
    expression = fit.expression.copy()
    for name, value in weights.items():
        expression[rig.model.names.index(name)] = value
    own = np.degrees(_euler(fit.camera.rotation)) + angles
    still = np.zeros((1, 2), np.float32), np.ones(1, np.float32)
    return move_head(rig, subject, Motion(expression[None], own[None].astype(np.float32), *still))[0]


def _euler(rotation: np.ndarray) -> np.ndarray:
    yaw, pitch = np.arctan2(rotation[0, 2], rotation[2, 2]), np.arcsin(-rotation[1, 2])
    return np.array([yaw, pitch, np.arctan2(rotation[1, 0], rotation[1, 1])])


def inside(rig: Rig, points: np.ndarray, outline: np.ndarray, shrink: int) -> np.ndarray:
    """(size, size) bool: pixels well within the outline of these landmarks."""
    places = crop_points(rig.table.locate(points), base_affine(rig))[outline, :2] * (rig.size / rig.fine)
    mask = np.zeros((rig.size, rig.size), np.uint8)
    cv2.fillPoly(mask, [np.round(places - 0.5).astype(np.int32)], 1)
    return cv2.erode(mask, np.ones((shrink, shrink), np.uint8)) > 0


@pytest.mark.shared
def test_an_unmoved_head_is_the_photo_and_known(rig: Rig, subject: Subject):
    picture, known = draw_known(rig, subject, pose(rig, subject), base_affine(rig))
    assert picture.shape == (SIZE, SIZE, 3) and known.shape == (SIZE, SIZE) and known.dtype == np.float32
    photo = photo_crop(rig, subject.place)
    assert np.abs(picture - photo).mean() < 1
    assert known.min() >= 0 and known.max() <= 1
    assert known.mean() > 0.98
    for outline in (*EYE_OUTLINES, INNER_LIPS):
        assert known[inside(rig, subject.face.points, outline, 1)].mean() > 0.95
    np.testing.assert_array_equal(draw(rig, subject, pose(rig, subject), base_affine(rig)), picture)


@pytest.mark.shared
def test_an_opened_mouth_is_not_known_and_the_cheeks_are(rig: Rig, subject: Subject):
    points = pose(rig, subject, jawOpen=0.7)
    _, known = draw_known(rig, subject, points, base_affine(rig))
    hole = inside(rig, points, INNER_LIPS, 5)
    assert hole.sum() > 20
    assert known[hole].max() < 0.2 and known[hole].mean() < 0.05
    x, y, _ = crop_points(rig.table.locate(points), base_affine(rig))[205].astype(int) // 2  # a cheek
    assert known[y, x] > 0.95


@pytest.mark.shared
def test_eyes_that_look_elsewhere_are_not_known(rig: Rig, subject: Subject):
    points = pose(rig, subject, eyeLookOut_L=0.8, eyeLookIn_R=0.8)
    _, known = draw_known(rig, subject, points, base_affine(rig))
    for outline in EYE_OUTLINES:
        hole = inside(rig, points, outline, 3)
        assert hole.any() and known[hole].max() < 0.1


@pytest.mark.shared
def test_what_a_turn_uncovers_is_not_known(rig: Rig, subject: Subject):
    little, far = (
        draw_known(rig, subject, pose(rig, subject, (angle, 0, 0)), base_affine(rig))[1] for angle in (4, 28)
    )
    assert far.mean() < little.mean() - 0.1


@pytest.mark.shared
def test_turning_does_not_burn_the_skin(rig: Rig, subject: Subject):
    at_rest = draw(rig, subject, pose(rig, subject), base_affine(rig))
    for angles in ((20, 0, 0), (-20, 0, 0), (0, -15, 0), (0, 15, 0)):
        picture = draw(rig, subject, pose(rig, subject, angles), base_affine(rig))
        assert (picture.mean(2) > 240).mean() < (at_rest.mean(2) > 240).mean() + 0.002


@pytest.mark.shared
def test_eyes_that_look_elsewhere_keep_their_irises(rig: Rig, subject: Subject):
    """Where a turned eye's iris lies it is as dark as the photo's own."""
    own, turned = (pose(rig, subject, **look) for look in ({}, {"eyeLookOut_L": 0.5, "eyeLookIn_R": 0.5}))
    levels = []
    for points, places in ((own, subject.place.landmarks), (turned, rig.table.locate(turned))):
        picture = draw(rig, subject, points, base_affine(rig))
        x, y = ((places[473, k] + base_affine(rig)[k, 2]) / 2 for k in (0, 1))
        levels.append(picture[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].mean())
    assert abs(levels[1] - levels[0]) < 25


@pytest.mark.shared
def test_beyond_the_photo_nothing_is_known(rig: Rig, assets_dir: Path):
    photo = load_image(assets_dir / "examples" / "source.jpg")
    track = detect_face(photo)
    left = int(track.landmarks[0, :, 0].min()) - 4  # the crop reaches further left than the photo now does
    moved = track.landmarks - np.array([left, 0, 0], np.float32)
    cut = make_portrait(rig, "cut", photo[:, left:], replace(track, landmarks=moved))
    subject = Subject(cut, cut, cut.skin, rig.model.person(cut.fit.identity))
    _, known = draw_known(rig, subject, pose(rig, subject), base_affine(rig))
    edge = (cut.frame[0] - base_affine(rig)[0, 2] * -1) / 2
    assert edge > 5
    assert known[:, : int(edge) - 1].max() == 0 and known[:, int(edge) + 2].mean() > 0.9


@pytest.mark.shared
def test_the_picture_is_the_same_without_numba(rig: Rig, subject: Subject, monkeypatch: pytest.MonkeyPatch):
    points = pose(rig, subject, (14, 6, -5), jawOpen=0.4)
    compiled = draw_known(rig, subject, points, base_affine(rig))
    monkeypatch.setattr(loops, "COMPILED", False)
    plain = draw_known(rig, subject, points, base_affine(rig))
    for a, b, limit in zip(compiled, plain, (1.0, 0.01), strict=True):
        assert np.abs(a - b).mean() < 0.05 * limit and np.quantile(np.abs(a - b), 0.999) < limit
