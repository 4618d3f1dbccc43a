"""The picture of the posed head: the photo where nothing moves, no burnt skin, and a mask of what the photo showed."""

from pathlib import Path

import cv2
import numpy as np
import pytest
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
from svdp.training.cast import open_studio
from svdp.training.materials import DataConfig
from svdp.training.rendered_pairs import photo_crop

SIZE = 128


@pytest.fixture(scope="module")
def studio(shared_dir: Path) -> Studio:
    head = str(shared_dir / "models" / "ict_light_f16.npz")
    return open_studio(DataConfig(autoencoder="", materials=(), roots={}, head_model=head, size=SIZE, crop_scale=1.4))


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
