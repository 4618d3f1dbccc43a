"""Heads: camera fit, motion, and the table of landmarks on the mesh."""

import json

import numpy as np
import pytest
from svdp.errors import UserError
from svdp.heads.bake import bake
from svdp.heads.fit import FLIP, Camera, align, fit_head, rotation_matrix
from svdp.heads.landmarks import NUM_FACE, load_table
from svdp.heads.model import load_head_model
from svdp.heads.motion import Motion, invent, limit_angles, smooth_curve
from svdp.signals.track import FaceTrack
from svdp.training.data.rendered_pairs import laid_over


@pytest.fixture(scope="module")
def head(shared_dir):
    return load_head_model(shared_dir / "models" / "ict_light_f16.npz")


@pytest.mark.parametrize("angles", [(30, 0, 0), (0, -15, 0), (0, 0, 20), (-25, 10, -8)])
def test_rotation_has_the_angles_of_a_face_track(angles):
    matrix = np.eye(4)[None].repeat(1, 0)
    matrix[0, :3, :3] = rotation_matrix(*angles)
    none = np.zeros((1, 478, 3), np.float32)
    track = FaceTrack(none, np.zeros((1, 52), np.float32), matrix, np.ones(1, bool), (8, 8))
    np.testing.assert_allclose(track.euler[0], angles, atol=1e-3)


def test_camera_is_recovered():
    rng = np.random.default_rng(1)
    points = rng.normal(0, 5, (40, 3))
    camera = Camera(rotation_matrix(20, -5, 12), 7.5, np.array([120.0, 90.0, 3.0]))
    found = align(points, camera.project(points) * FLIP, rng.uniform(0.3, 1, 40))
    np.testing.assert_allclose(found.project(points), camera.project(points), atol=1e-3)
    assert found.yaw == pytest.approx(camera.yaw, abs=1e-3)
    moved = camera.then(np.array([[2, 0, 5], [0, 2, -3]]))
    np.testing.assert_allclose(moved.project(points), camera.project(points) * 2 + [5, -3, 0], atol=1e-3)


def test_limits_hold_and_small_angles_stay():
    still = np.zeros((3, 2)), np.ones(3)
    motion = Motion(np.zeros((3, 53)), np.array([[80.0, -60, 5], [1, 1, 1], [-80, 0, 0]]), *still)
    limited = limit_angles(motion, np.array([30.0, 15, 15]))
    assert (np.abs(limited.angles) <= [30, 15, 15]).all()
    np.testing.assert_allclose(limited.angles[1], 1, atol=0.01)
    assert limit_angles(motion, np.array([30.0, 15, 15]), np.array([10.0, 0, 0])).angles[2, 0] > -20.001


def test_curves_are_smooth_and_depend_on_the_seed_alone():
    curves = [smooth_curve(np.random.default_rng(s), 200, 10) for s in (3, 3, 4)]
    np.testing.assert_array_equal(curves[0], curves[1])
    assert np.abs(curves[0] - curves[2]).max() > 0.5
    assert 0.5 < curves[0].std() < 1.6 and np.abs(np.diff(curves[0])).max() < 0.7


def write_obj(path, vertices, faces=""):
    path.write_text("".join("v {} {} {}\n".format(*v) for v in vertices) + faces)


def test_bake_reads_a_checkout(tmp_path):
    neutral = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    write_obj(
        tmp_path / "generic_neutral_mesh.obj", neutral, "usemtl M_Face\nf 1/1 2/2 3/3 4/4\nusemtl M_Teeth\nf 1 2 3\n"
    )
    write_obj(tmp_path / "identity000.obj", neutral + np.array([0, 0, 1]))
    write_obj(tmp_path / "jawOpen.obj", neutral - np.array([0, 1, 0]))
    indices = {"expressions": ["jawOpen"], "idx_to_landmark_verts": [0, 2]}
    (tmp_path / "vertex_indices.json").write_text(json.dumps(indices))
    bake(tmp_path, tmp_path / "head.npz")
    with np.load(tmp_path / "head.npz") as baked:
        assert baked["F"].tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
        assert baked["mats"][baked["mat"]].tolist() == ["M_Face", "M_Face", "M_Teeth"]
        np.testing.assert_allclose(baked["I"], np.tile([0, 0, 1], (1, 4, 1)))
        np.testing.assert_allclose(baked["E"], np.tile([0, -1, 0], (1, 4, 1)))
    with pytest.raises(UserError, match="FaceXModel"):
        bake(tmp_path / "elsewhere", tmp_path / "head.npz")
    with pytest.raises(UserError, match=r"heads\.bake"):
        load_head_model(tmp_path / "missing.npz")


@pytest.mark.shared
def test_landmark_table_lies_on_the_head(head):
    table = load_table()
    np.testing.assert_allclose(table.barycentric.sum(1), 1, atol=1e-5)
    points = table.locate(head.neutral)
    for right, left in ((33, 263), (61, 291), (133, 362), (159, 386), (468, 473)):  # the two sides mirror each other
        np.testing.assert_allclose(points[right] * [-1, 1, 1], points[left], atol=0.35)
    assert points[10, 1] > points[168, 1] > points[1, 1] > points[13, 1] > points[152, 1]  # forehead to chin
    assert points[4, 2] == points[:NUM_FACE, 2].max()  # the tip of the nose is foremost
    assert points[33, 0] < points[468, 0] < points[133, 0]  # the pupil lies between the corners of the eye


@pytest.mark.shared
def test_expressions_move_what_they_name(head):
    table, names = load_table(), head.names
    weights = np.zeros((4, 53), np.float32)
    for row, name in ((1, "jawOpen"), (2, "eyeBlink_L"), (3, "eyeLookOut_L")):
        weights[row, names.index(name)] = 1
    rest, jaw, blink, look = table.locate(head.express(head.neutral, weights))
    gap = lambda points, a, b: float(np.linalg.norm(points[a] - points[b]))  # noqa: E731
    assert gap(jaw, 13, 14) > gap(rest, 13, 14) + 1
    assert gap(blink, 386, 374) < 0.4 * gap(rest, 386, 374) and gap(blink, 159, 145) > 0.9 * gap(rest, 159, 145)
    assert look[473, 0] > rest[473, 0] + 0.5 and abs(look[468, 0] - rest[468, 0]) < 1e-3  # left eye, to the left


@pytest.mark.shared
def test_fit_recovers_a_head(head):
    """Landmarks made by a known head and camera are explained by the fit."""
    table, rng = load_table(), np.random.default_rng(2)
    weights = np.zeros((1, 53), np.float32)
    weights[0, head.names.index("jawOpen")] = 0.4
    points = head.express(head.person(rng.normal(0, 0.5, 100)), weights)
    camera = Camera(rotation_matrix(15, 5, -6), 9.0, np.array([200.0, 180.0, 0.0]))
    landmarks = camera.project(table.locate(points)[0]) * [1, 1, -1]  # MediaPipe's z grows away from the camera
    found = fit_head(head, landmarks, table)
    assert found.error < 0.015
    assert found.camera.yaw == pytest.approx(15, abs=2)
    gap = lambda identity, expression: np.ptp(  # noqa: E731
        table.locate(head.express(head.person(identity), expression[None]))[0, [13, 14], 1]
    )
    assert gap(found.identity, found.expression) > 0.7 * np.ptp(table.locate(points)[0, [13, 14], 1]) > 0.5


@pytest.mark.shared
def test_invented_motion_is_varied_and_reproducible(head):
    motions = [invent(np.random.default_rng(n), head, 19) for n in range(40)]
    again = invent(np.random.default_rng(7), head, 19)
    np.testing.assert_array_equal(again.expression, motions[7].expression)
    expression = np.stack([m.expression for m in motions])
    assert expression.min() >= 0 and expression.max() <= 1
    reach = lambda name: np.ptp(expression[:, :, head.names.index(name)], axis=1)  # noqa: E731
    assert (reach("jawOpen") > 0.2).mean() > 0.5
    assert (reach("eyeBlink_L") > 0.6).mean() > 0.25
    assert np.abs(np.stack([m.angles for m in motions])[..., 0]).max() > 20


def test_drivers_are_laid_over_targets():
    rng = np.random.default_rng(0)
    target = rng.normal(60, 20, (4, 478, 3)).astype(np.float32)
    driver = 1.3 * target + np.array([7.0, -20.0, 0], np.float32)
    affine = laid_over(target, driver)
    np.testing.assert_allclose(driver[:, :, :2] @ affine[:, :2].T + affine[:, 2], target[:, :, :2], atol=1e-3)
