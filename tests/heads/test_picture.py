"""The picture of the posed head: the photo where nothing moves, no burnt skin, and a mask of what the photo showed."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from svdp.heads import loops
from svdp.heads.motion import Motion
from svdp.heads.scene import (
    Actor,
    Portrait,
    Studio,
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
from svdp.training.data.identities import open_studio
from svdp.training.data.rendered_pairs import photo_crop
from svdp.training.data.sources import DataConfig

SIZE = 128


@pytest.fixture(scope="module")
def studio(shared_dir: Path) -> Studio:
    head = str(shared_dir / "models" / "ict_light_f16.npz")
    return open_studio(DataConfig(autoencoder="", media=(), roots={}, head_model=head, size=SIZE, crop_scale=1.4))


@pytest.fixture(scope="module")
def portrait(studio: Studio, assets_dir: Path) -> Portrait:
    photo = load_image(assets_dir / "examples" / "source.jpg")
    return make_portrait(studio, "photo", photo, detect_face(photo))


@pytest.fixture(scope="module")
def actor(studio: Studio, portrait: Portrait) -> Actor:
    return Actor(portrait, portrait, portrait.skin, studio.model.person(portrait.fit.identity))


def pose(studio: Studio, actor: Actor, angles=(0.0, 0.0, 0.0), **weights: float) -> np.ndarray:
    """Points of the actor with its own expression and rotation, changed by the given weights and degrees."""
    fit = actor.place.fit
    expression = fit.expression.copy()
    for name, value in weights.items():
        expression[studio.model.names.index(name)] = value
    own = np.degrees(_euler(fit.camera.rotation)) + angles
    still = np.zeros((1, 2), np.float32), np.ones(1, np.float32)
    return move_head(studio, actor, Motion(expression[None], own[None].astype(np.float32), *still))[0]


def _euler(rotation: np.ndarray) -> np.ndarray:
    yaw, pitch = np.arctan2(rotation[0, 2], rotation[2, 2]), np.arcsin(-rotation[1, 2])
    return np.array([yaw, pitch, np.arctan2(rotation[1, 0], rotation[1, 1])])


def inside(studio: Studio, points: np.ndarray, outline: np.ndarray, shrink: int) -> np.ndarray:
    """(size, size) bool: pixels well within the outline of these landmarks."""
    places = crop_points(studio.table.locate(points), base_affine(studio))[outline, :2] * (studio.size / studio.fine)
    mask = np.zeros((studio.size, studio.size), np.uint8)
    cv2.fillPoly(mask, [np.round(places - 0.5).astype(np.int32)], 1)
    return cv2.erode(mask, np.ones((shrink, shrink), np.uint8)) > 0


@pytest.mark.shared
def test_an_unmoved_head_is_the_photo_and_known(studio: Studio, actor: Actor):
    picture, known = draw_known(studio, actor, pose(studio, actor), base_affine(studio))
    assert picture.shape == (SIZE, SIZE, 3) and known.shape == (SIZE, SIZE) and known.dtype == np.float32
    photo = photo_crop(studio, actor.place)
    assert np.abs(picture - photo).mean() < 1
    assert known.min() >= 0 and known.max() <= 1
    assert known.mean() > 0.98
    for outline in (*EYE_OUTLINES, INNER_LIPS):
        assert known[inside(studio, actor.face.points, outline, 1)].mean() > 0.95
    np.testing.assert_array_equal(draw(studio, actor, pose(studio, actor), base_affine(studio)), picture)


@pytest.mark.shared
def test_an_opened_mouth_is_not_known_and_the_cheeks_are(studio: Studio, actor: Actor):
    points = pose(studio, actor, jawOpen=0.7)
    _, known = draw_known(studio, actor, points, base_affine(studio))
    hole = inside(studio, points, INNER_LIPS, 5)
    assert hole.sum() > 20
    assert known[hole].max() < 0.2 and known[hole].mean() < 0.05
    x, y, _ = crop_points(studio.table.locate(points), base_affine(studio))[205].astype(int) // 2  # a cheek
    assert known[y, x] > 0.95


@pytest.mark.shared
def test_eyes_that_look_elsewhere_are_not_known(studio: Studio, actor: Actor):
    points = pose(studio, actor, eyeLookOut_L=0.8, eyeLookIn_R=0.8)
    _, known = draw_known(studio, actor, points, base_affine(studio))
    for outline in EYE_OUTLINES:
        hole = inside(studio, points, outline, 3)
        assert hole.any() and known[hole].max() < 0.1


@pytest.mark.shared
def test_what_a_turn_uncovers_is_not_known(studio: Studio, actor: Actor):
    little, far = (
        draw_known(studio, actor, pose(studio, actor, (angle, 0, 0)), base_affine(studio))[1] for angle in (4, 28)
    )
    assert far.mean() < little.mean() - 0.1


@pytest.mark.shared
def test_turning_does_not_burn_the_skin(studio: Studio, actor: Actor):
    at_rest = draw(studio, actor, pose(studio, actor), base_affine(studio))
    for angles in ((20, 0, 0), (-20, 0, 0), (0, -15, 0), (0, 15, 0)):
        picture = draw(studio, actor, pose(studio, actor, angles), base_affine(studio))
        assert (picture.mean(2) > 240).mean() < (at_rest.mean(2) > 240).mean() + 0.002


@pytest.mark.shared
def test_eyes_that_look_elsewhere_keep_their_irises(studio: Studio, actor: Actor):
    """Where a turned eye's iris lies it is as dark as the photo's own."""
    own, turned = (pose(studio, actor, **look) for look in ({}, {"eyeLookOut_L": 0.5, "eyeLookIn_R": 0.5}))
    levels = []
    for points, places in ((own, actor.place.landmarks), (turned, studio.table.locate(turned))):
        picture = draw(studio, actor, points, base_affine(studio))
        x, y = ((places[473, k] + base_affine(studio)[k, 2]) / 2 for k in (0, 1))
        levels.append(picture[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].mean())
    assert abs(levels[1] - levels[0]) < 25


@pytest.mark.shared
def test_beyond_the_photo_nothing_is_known(studio: Studio, assets_dir: Path):
    photo = load_image(assets_dir / "examples" / "source.jpg")
    track = detect_face(photo)
    left = int(track.landmarks[0, :, 0].min()) - 4  # the crop reaches further left than the photo now does
    moved = track.landmarks - np.array([left, 0, 0], np.float32)
    cut = make_portrait(studio, "cut", photo[:, left:], replace(track, landmarks=moved))
    actor = Actor(cut, cut, cut.skin, studio.model.person(cut.fit.identity))
    _, known = draw_known(studio, actor, pose(studio, actor), base_affine(studio))
    edge = (cut.frame[0] - base_affine(studio)[0, 2] * -1) / 2
    assert edge > 5
    assert known[:, : int(edge) - 1].max() == 0 and known[:, int(edge) + 2].mean() > 0.9


@pytest.mark.shared
def test_the_picture_is_the_same_without_numba(studio: Studio, actor: Actor, monkeypatch: pytest.MonkeyPatch):
    points = pose(studio, actor, (14, 6, -5), jawOpen=0.4)
    compiled = draw_known(studio, actor, points, base_affine(studio))
    monkeypatch.setattr(loops, "COMPILED", False)
    plain = draw_known(studio, actor, points, base_affine(studio))
    for a, b, limit in zip(compiled, plain, (1.0, 0.01), strict=True):
        assert np.abs(a - b).mean() < 0.05 * limit and np.quantile(np.abs(a - b), 0.999) < limit
