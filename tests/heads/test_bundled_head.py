"""The bundled head, baked from MakeHuman: complete, small, and its face does what the expressions say."""

import numpy as np
import pytest

pytest.importorskip("numba")

from svdp.errors import UserError
from svdp.heads.bake_makehuman import bake
from svdp.heads.fit import Camera, fit_head, rotation_matrix
from svdp.heads.landmarks import BUNDLED_TABLE, NUM_FACE, load_bundled
from svdp.heads.model import BUNDLED, load_head_model
from svdp.heads.mouth_parts import eyeball, gums, sphere_of, teeth
from svdp.heads.raster import vertex_normals
from svdp.heads.texture import anatomy, eye_angles


@pytest.fixture(scope="module")
def bundled():
    return load_bundled()


def expressed(model, **weights):
    """The neutral head with the named weights; a name without a side means both sides."""
    row = np.zeros((1, len(model.names)), np.float32)
    for name, value in weights.items():
        for full in (name,) if name in model.names else (f"{name}_L", f"{name}_R"):
            row[0, model.names.index(full)] = value
    return model.express(model.neutral, row)[0]


def test_it_is_small_and_complete(bundled):
    model, table = bundled
    assert BUNDLED.stat().st_size + BUNDLED_TABLE.stat().st_size < 5e6
    assert table.num_vertices == model.num_vertices
    assert len(model.names) == len(set(model.names)) == 53
    assert {"browInnerUp_L", "cheekPuff_R", "eyeBlink_L", "jawOpen", "jawLeft", "mouthClose"} <= set(model.names)
    assert model.landmarks68.shape == (68,) and model.landmarks68.min() >= 0
    assert len(model.identity) >= 50 and np.isfinite(model.identity).all()
    for name in ("M_Face", "M_BackHead", "M_ScleraLeft", "M_ScleraRight", "M_Teeth", "M_GumsTongue"):
        assert len(model.part(name)) > 500, name


def test_landmarks_lie_where_their_names_say(bundled):
    model, table = bundled
    points = table.locate(model.neutral)
    for right, left in ((33, 263), (61, 291), (133, 362), (159, 386), (468, 473)):  # the two sides mirror each other
        np.testing.assert_allclose(points[right] * [-1, 1, 1], points[left], atol=0.35)
    assert points[10, 1] > points[168, 1] > points[1, 1] > points[13, 1] > points[152, 1]  # forehead to chin
    assert points[[1, 4], 2].max() == points[:NUM_FACE, 2].max()  # the tip of the nose is foremost
    assert points[33, 0] < points[468, 0] < points[133, 0]  # the pupil lies between the corners of the eye


def test_mouth_and_lids_open_and_close(bundled):
    model, table = bundled
    gap = lambda points, a, b: float(np.linalg.norm(np.subtract(*table.locate(points)[[a, b]])))  # noqa: E731
    rest, jaw = model.neutral, expressed(model, jawOpen=1)
    assert gap(rest, 13, 14) < 0.35 and gap(jaw, 13, 14) > 1.5
    blink = expressed(model, eyeBlink_L=1)
    assert gap(blink, 386, 374) < 0.35 * gap(rest, 386, 374) and gap(blink, 159, 145) > 0.9 * gap(rest, 159, 145)
    look = table.locate(expressed(model, eyeLookOut_L=1)) - table.locate(rest)
    assert look[473, 0] > 0.5 and abs(look[468, 0]) < 1e-3  # left eye, to the left


def test_teeth_move_with_their_jaw(bundled):
    model, _ = bundled
    moved = np.linalg.norm(expressed(model, jawOpen=1) - model.neutral, axis=1)[model.part("M_Teeth")]
    assert (moved < 0.2).mean() > 0.4 and (moved > 0.5).mean() > 0.4


def test_eyeballs_are_round_for_anybody(bundled):
    model, _ = bundled
    person = model.person(np.random.default_rng(0).normal(0, 1, len(model.identity)))
    for ball in model.eyeballs:
        centre, radius = sphere_of(person[ball])
        np.testing.assert_allclose(np.linalg.norm(person[ball] - centre, axis=1), radius, rtol=0.15)
    angle = eye_angles(model)[model.eyeballs[0]]
    assert np.abs(angle - 0.385).min() < 0.01  # a ring where the iris ends


def test_fit_recovers_a_head(bundled):
    model, table = bundled
    person = model.person(np.random.default_rng(2).normal(0, 0.5, len(model.identity)))
    camera = Camera(rotation_matrix(15, 5, -6), 9.0, np.array([200.0, 180.0, 0.0]))
    found = fit_head(model, camera.project(table.locate(person)) * [1, 1, -1], table)
    assert found.error < 0.015 and found.camera.yaw == pytest.approx(15, abs=2)
    assert found.identity.shape == (len(model.identity),)


def test_anatomy_of_the_bundled_head(bundled):
    parts = anatomy(*bundled)
    assert len(parts.throat) > 100 and len(parts.lashes) > 20
    assert parts.opacity.max() == 1 and (parts.depth_shade > 0).all()


@pytest.mark.parametrize("upper", [True, False])
def test_drawn_pieces_face_outwards(upper):
    band = np.array([[x, y, 10 - 0.3 * x * x] for x in np.linspace(-3.5, 3.5, 15) for y in (-3.0, -1.0)])
    for piece in (teeth(band, upper=upper), gums(band, upper=upper)):
        normals = -vertex_normals(piece.points.astype(np.float32), piece.triangles.astype(np.int32))
        front = piece.points[:, 2] > piece.points[:, 2].max() - 0.05
        assert (normals[front, 2] > 0).all()
    rays = np.random.default_rng(0).normal(0, 1, (50, 3))
    ball = eyeball("M_ScleraLeft", np.array([3.0, 3, 8]) + 1.5 * rays / np.linalg.norm(rays, axis=1, keepdims=True))
    normals = -vertex_normals(ball.points.astype(np.float32), ball.triangles.astype(np.int32))
    assert (((ball.points - [3, 3, 8]) * normals).sum(1) > 0).all()


def test_bake_says_what_it_needs(tmp_path):
    with pytest.raises(UserError, match=r"base\.obj"):
        bake(tmp_path, tmp_path / "head.npz")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("V", None, "'V'.*missing"), ("cage_I", None, "'cage_I'.*missing"), ("F", lambda a: a[:, :2], "F is uint16"),
        ("F", lambda a: a + 9000, "F has numbers that are not from 0 to 9627"),
        ("I", lambda a: a[:, :9], "I is float16"),
        ("E", lambda a: np.full_like(a, np.nan), "E has numbers that are not finite"),
        ("names", lambda a: a[:9], "names is"), ("mat", lambda a: a + 9, "mat has numbers"),
        ("mats", lambda a: np.array(["x"] * len(a)), "no triangle is of M_ScleraLeft or M_ScleraRight"),
        ("cage", lambda a: a.astype(str), "cage is"), ("V", lambda a: np.array(3.0), "V is"),
        ("lm68", lambda a: np.array([None] * 68, object), "cannot|can be read"),
    ],
)  # fmt: skip
def test_a_head_file_with_a_wrong_array_is_named(name, change, said, tmp_path):
    with np.load(BUNDLED) as data:
        arrays = dict(data)
    if change is None:
        del arrays[name]
    else:
        arrays[name] = change(arrays[name])
    np.savez(tmp_path / "head.npz", **arrays)
    with pytest.raises(UserError, match=said):
        load_head_model(tmp_path / "head.npz")


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_a_damaged_head_file_is_refused(keep, tmp_path):
    data = BUNDLED.read_bytes()
    (tmp_path / "head.npz").write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    np.save(tmp_path / "alone.npy", np.zeros(3))
    for path in (tmp_path / "head.npz", tmp_path / "alone.npy"):
        with pytest.raises(UserError, match="bake it again"):
            load_head_model(path)
