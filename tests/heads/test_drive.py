"""Driving a head: motion found again in its own landmarks, closed lids and lips on other faces, placement."""

from dataclasses import replace

import numpy as np
import pytest
from svdp.heads.drive import fit_driver, fit_face, fit_likeness, settle
from svdp.heads.fit import FLIP, Camera, HeadFit, rotation_matrix
from svdp.heads.landmarks import load_table
from svdp.heads.mistakes import landmark_mistakes, view_mistakes, weight_mistakes
from svdp.heads.model import load_head_model
from svdp.heads.place import SIZE_FREE, TOUCH_LIDS, TOUCH_LIPS, TURN_MOST, follow_size, limit_turn, place, transfer
from svdp.heads.scene import PIVOT
from svdp.heads.solve import LIDS, LIPS, euler_angles, face_basis, gaps, rotations, solve_within, width, y_up
from svdp.signals.track import BLENDSHAPES

FRAMES = 60


@pytest.fixture(scope="module")
def head(shared_dir):
    return load_head_model(shared_dir / "models" / "ict_light_f16.npz")


@pytest.fixture(scope="module")
def basis(head):
    return face_basis(head, load_table())


def curve(speed, phase=0.0):
    return np.sin(np.arange(FRAMES) / speed + phase)


@pytest.fixture(scope="module")
def clip(basis):
    """A stranger who nods, talks and blinks: landmarks as a tracker gives them, and blendshapes that overdo it."""
    rng = np.random.default_rng(0)
    identity = rng.normal(0, 0.4, len(basis.identity))
    weights = np.zeros((FRAMES, len(basis.names)))
    jaw, blink = 0.25 + 0.25 * curve(4), np.clip(6 * curve(7) - 5, 0, 1)
    for name, values in (("jawOpen", jaw), ("eyeBlink_L", blink), ("eyeBlink_R", blink)):
        weights[:, basis.names.index(name)] = values
    for side in "LR":
        weights[:, basis.names.index(f"mouthSmile_{side}")] = 0.3 + 0.3 * curve(11)
    angles = np.stack([15 * curve(9), 8 * curve(6, 1), 5 * curve(12, 2)], 1)
    faces = basis.express(basis.person(identity), weights)
    views = 6.0 * faces @ rotations(angles).transpose(0, 2, 1) + [130, -120, 0]
    landmarks = (y_up(views) + rng.normal(0, 0.3, views.shape)).astype(np.float32)
    blendshapes = np.zeros((FRAMES, 52))
    for name, values in (("jawOpen", 1.8 * jaw), ("eyeBlinkLeft", blink), ("eyeBlinkRight", blink)):
        blendshapes[:, BLENDSHAPES.index(name)] = np.clip(values, 0, 1)
    for side in ("Left", "Right"):
        blendshapes[:, BLENDSHAPES.index(f"mouthSmile{side}")] = 0.3 + 0.3 * curve(11)
    return identity, weights, angles, faces, landmarks, blendshapes


def test_limits_of_least_squares_hold():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 5, 5))
    normal, right = root @ root.transpose(0, 2, 1) + np.eye(5), rng.normal(size=(3, 5))
    free = solve_within(normal, right, np.full((3, 5), -np.inf), np.full((3, 5), np.inf))
    np.testing.assert_allclose((normal @ free[..., None])[..., 0], right, atol=1e-9)
    found = solve_within(normal, right, np.zeros((3, 5)), np.full((3, 5), 0.1))
    assert found.min() >= 0 and found.max() <= 0.1
    cost = lambda x: 0.5 * np.einsum("ti,tij,tj->t", x, normal, x) - (x * right).sum(1)  # noqa: E731
    assert (cost(found) <= cost(np.clip(free, 0, 0.1)) + 1e-9).all()


def test_angles_and_rotations_agree():
    angles = np.array([[30.0, -12, 7], [-20, 15, -9]])
    np.testing.assert_allclose(euler_angles(rotations(angles)), angles, atol=1e-4)


def test_settling_keeps_a_ramp():
    ramp = np.arange(9.0)
    np.testing.assert_allclose(settle(ramp)[1:-1], ramp[1:-1])


def test_turns_far_from_the_photo_are_squeezed_and_small_ones_kept():
    change = np.array([-90.0, -10, 0, 20, 30, 50])
    found = limit_turn(change)
    np.testing.assert_allclose(found[1:4], change[1:4])
    assert (np.diff(found) > 0).all() and np.abs(found).max() <= TURN_MOST


def test_size_rests_on_noise_and_follows_a_driver_who_comes_nearer():
    rng = np.random.default_rng(0)
    noise = np.exp(rng.normal(0, 0.01, 160))
    np.testing.assert_allclose(follow_size(2 * noise), follow_size(2 * noise)[0])
    nearer = np.concatenate([np.ones(60), np.linspace(1, 1.5, 60), np.full(40, 1.5)])
    found = follow_size(nearer * noise)
    np.testing.assert_allclose(found[:40], 1, rtol=0.01)
    np.testing.assert_allclose(found[-10:], 1.5 * np.exp(-SIZE_FREE), rtol=0.02)
    assert np.abs(np.diff(np.log(found))).max() < 0.012


@pytest.mark.shared
def test_known_motion_is_found(basis, clip):
    _, weights, angles, _, landmarks, blendshapes = clip
    driver = fit_driver(basis, landmarks, blendshapes)
    assert len(driver) == FRAMES and driver.expression.shape == weights.shape
    for axis, most in enumerate((1.0, 1.0, 0.6)):  # degrees
        off = driver.angles[:, axis] - angles[:, axis]
        assert np.abs(off).max() < 3 * most and off.std() < most
    jaw = basis.names.index("jawOpen")
    gain = lambda found: weight_mistakes(found, weights)[0][jaw]  # noqa: E731
    assert gain(basis.expect(blendshapes)) > 1.3  # what the blendshapes alone would do
    assert gain(driver.expression) == pytest.approx(1, abs=0.12)
    assert driver.expression.min() >= 0 and driver.expression.max() <= 1


@pytest.mark.shared
def test_a_preview_agrees_with_the_whole_clip(basis, clip):
    *_, landmarks, blendshapes = clip
    whole, part = (fit_driver(basis, landmarks[:n], blendshapes[:n]) for n in (FRAMES, 50))
    np.testing.assert_allclose(part.expression[:49], whole.expression[:49], atol=1e-4)
    np.testing.assert_allclose(part.angles[:49], whole.angles[:49], atol=1e-2)
    chosen = whole[10:20]
    np.testing.assert_array_equal(chosen.lids, whole.lids[10:20])


@pytest.mark.shared
def test_a_turned_stretch_makes_no_crooked_face(basis, clip):
    *_, landmarks, blendshapes = clip
    neutral = fit_likeness(basis, landmarks[:20], blendshapes[:20]).neutral
    assert np.abs((neutral - basis.neutral[:]) @ [1, 0, 0]).max() < 1.5
    np.testing.assert_allclose(neutral[33] * [-1, 1, 1], neutral[263], atol=0.35)


@pytest.mark.shared
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_closed_is_closed_on_any_face(basis, clip, seed):
    *_, landmarks, blendshapes = clip
    driver = fit_driver(basis, landmarks, blendshapes)
    closed = replace(driver, lids=np.zeros_like(driver.lids), lips=np.zeros_like(driver.lips))
    identity = np.random.default_rng(seed).normal(0, 0.6, len(basis.identity))
    source = HeadFit(identity, np.zeros(len(basis.names)), Camera(np.eye(3), 5.0, np.zeros(3)), 0.0)
    rest = basis.person(identity)
    faces = basis.express(rest, transfer(basis, closed, source)[0])
    for pairs in LIDS:
        np.testing.assert_allclose(gaps(faces, pairs), TOUCH_LIDS, atol=0.08)
    for pairs in LIPS:
        np.testing.assert_allclose(gaps(faces - rest, pairs), TOUCH_LIPS, atol=0.12)
    rested = replace(closed, lids=np.ones_like(driver.lids), expression=np.zeros_like(driver.expression))
    faces = basis.express(rest, transfer(basis, rested, source)[0])
    for pairs in LIDS:
        np.testing.assert_allclose(gaps(faces, pairs), gaps(rest, pairs), atol=0.05)


@pytest.mark.shared
def test_lips_open_in_proportion(basis, clip):
    *_, landmarks, blendshapes = clip
    driver = fit_driver(basis, landmarks, blendshapes)
    identity = np.random.default_rng(4).normal(0, 0.6, len(basis.identity))
    source = HeadFit(identity, np.zeros(len(basis.names)), Camera(np.eye(3), 5.0, np.zeros(3)), 0.0)
    rest = basis.person(identity)
    faces = basis.express(rest, transfer(basis, driver, source)[0])
    opened = (gaps(faces - rest, LIPS[0]) - TOUCH_LIPS) / width(rest, (61, 291))
    np.testing.assert_allclose(opened, driver.lips[:, 0], atol=0.03)


@pytest.mark.shared
def test_relative_motion_starts_from_the_source(basis, clip):
    *_, landmarks, blendshapes = clip
    driver = fit_driver(basis, landmarks, blendshapes)
    own = np.zeros(len(basis.names))
    own[basis.names.index("mouthSmile_L")] = own[basis.names.index("mouthSmile_R")] = 0.5
    turn = rotation_matrix(12, -4, 3).astype(np.float64)
    source = HeadFit(np.zeros(len(basis.identity)), own, Camera(turn, 5.0, np.zeros(3)), 0.0)
    expression, angles = transfer(basis, driver, source, "relative", reference=7)
    np.testing.assert_allclose(angles[7], [12, -4, 3], atol=1e-3)
    np.testing.assert_allclose(expression[7], own, atol=0.06)
    turned = rotations(driver.angles) @ rotations(driver.angles)[7].T
    free = np.abs(euler_angles(turned @ turn) - [12, -4, 3]).max(1) < 22
    assert 20 < free.sum() < FRAMES  # beyond, turns are squeezed
    np.testing.assert_allclose((rotations(angles) @ turn.T)[free], turned[free], atol=1e-4)


@pytest.mark.shared
def test_the_same_head_lies_where_it_was(basis, clip):
    """A head posed over its own landmarks from any picture of it returns to them: scale and place are right."""
    identity, weights, angles, faces, landmarks, _ = clip
    source = HeadFit(identity, weights[0], Camera(np.eye(3), 11.0, np.array([300.0, 280, 0])), 0.0)
    affine, side = np.array([[0.5, 0, -20], [0, 0.5, -30.0]]), 512
    motion = place(basis, source, weights, angles, landmarks, affine, side)
    assert len(set(motion.zoom)) == 1
    anchor = source.camera.project(PIVOT)[:2]
    laid = motion.zoom[0] * 11.0 * FLIP * ((faces - PIVOT) @ rotations(angles).transpose(0, 2, 1))
    on_canvas = laid[..., :2] + anchor + motion.shift[:, None] * side
    np.testing.assert_allclose(on_canvas * 0.5 + affine[:, 2], landmarks[..., :2], atol=1.6)  # noise: .3 pixels


@pytest.mark.shared
def test_a_smile_in_a_picture_is_no_identity(basis):
    weights = np.zeros((1, len(basis.names)))
    for side in "LR":
        weights[0, basis.names.index(f"mouthSmile_{side}")] = 0.7
    camera = Camera(rotation_matrix(8, 3, 2), 9.0, np.array([200.0, 180.0, 0.0]))
    landmarks = camera.project(basis.express(basis.neutral, weights)[0]) * [1, 1, -1]
    blendshapes = np.zeros(52)
    for side in ("Left", "Right"):
        blendshapes[BLENDSHAPES.index(f"mouthSmile{side}")] = 0.8
    found = fit_face(basis, landmarks, blendshapes)
    assert found.error < 0.01
    assert found.camera.yaw == pytest.approx(8, abs=1)
    assert found.expression[basis.names.index("mouthSmile_L")] == pytest.approx(0.7, abs=0.12)
    off = basis.person(found.identity) - basis.neutral
    assert np.linalg.norm(off[[61, 291]], axis=1).max() < 0.15  # centimetres at the corners of the mouth


@pytest.mark.shared
def test_mistakes_are_measured(basis, clip):
    """Known errors of turn, place and size are read off the landmarks."""
    _, weights, angles, faces, _, _ = clip
    wrong = angles + np.array([3.0, -2.0, 1.0])
    true, posed = (
        y_up(s * faces @ rotations(a).transpose(0, 2, 1) + offset)
        for s, a, offset in ((6.0, angles, [130, -120, 0]), (6.3, wrong, [132, -120, 0]))
    )
    found = view_mistakes(basis, posed, true)
    np.testing.assert_allclose(np.abs(found["angles"].constant), [3, 2, 1], atol=0.6)
    assert found["growth"].constant == pytest.approx(np.log(1.05), abs=0.005)
    assert found["growth"].changing < 0.005
    eyes = np.linalg.norm(true[:, 33, :2] - true[:, 263, :2], axis=1).mean()
    moved = true + np.array([0.1 * eyes, 0, 0])
    off = landmark_mistakes(moved, true)["lips"]
    assert off.constant == pytest.approx(0.1, abs=1e-6) and off.changing == pytest.approx(0, abs=1e-6)
    shift = view_mistakes(basis, moved, true)["shift"].constant
    assert shift[0] == pytest.approx(0.1, rel=0.15) and abs(shift[1]) < 0.01
    gain, rest = weight_mistakes(1.3 * weights + 0.02, weights)
    jaw = basis.names.index("jawOpen")
    assert gain[jaw] == pytest.approx(1.3) and np.isnan(gain[basis.names.index("jawForward")])
    assert rest.max() < 1e-9


def test_both_eyes_look_the_same_way(basis):
    """Eyes that the detector reads as squinting look straight ahead; those that look aside stay as far aside."""
    seen = np.zeros((2, len(BLENDSHAPES)), np.float32)
    seen[0, [BLENDSHAPES.index("eyeLookInLeft"), BLENDSHAPES.index("eyeLookInRight")]] = 0.6
    seen[1, [BLENDSHAPES.index("eyeLookOutLeft"), BLENDSHAPES.index("eyeLookInRight")]] = 0.5
    expected = basis.expect(seen)
    look = {name: expected[:, n] for n, name in enumerate(basis.names) if name.startswith("eyeLook")}
    outward_left = look["eyeLookOut_L"] - look["eyeLookIn_L"]
    inward_right = look["eyeLookIn_R"] - look["eyeLookOut_R"]
    np.testing.assert_allclose(outward_left, inward_right)
    np.testing.assert_allclose(outward_left, [0, 0.5], atol=0.05)
    np.testing.assert_allclose(look["eyeLookUp_L"], look["eyeLookUp_R"])
