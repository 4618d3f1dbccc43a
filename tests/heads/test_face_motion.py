"""Motion as a value: exact in a file, cut and mixed over time, edited on a portrait."""

import json
from dataclasses import replace

import numpy as np
import pytest
from svdp.errors import UserError
from svdp.heads.controls import CONTROLS, NAMES, PARTS, Edit, parse_edits, weights_of
from svdp.heads.drive import fit_driver
from svdp.heads.face_motion import (
    ROWS,
    blend,
    edit,
    equal,
    fit_length,
    fit_motion,
    freeze,
    joined,
    loop,
    mix,
    retime,
    reverse,
    smooth,
    still,
)
from svdp.heads.fit import Camera, HeadFit, rotation_matrix
from svdp.heads.motion_file import from_text, load_motion, save_motion, to_text
from svdp.heads.on_head import on_head
from svdp.heads.place import place, transfer
from svdp.heads.pose import open_rig
from svdp.heads.solve import LIDS, LIPS, gaps, rotations, y_up

FRAMES, SIDE = 60, 256


@pytest.fixture(scope="module")
def basis():
    return open_rig(SIDE, 1.7)[1]


@pytest.fixture(scope="module")
def driver(basis):
    """Landmarks of a stranger who nods, talks and looks about, and blendshapes."""
    rng = np.random.default_rng(0)
    time = np.arange(FRAMES)
    weights = np.zeros((FRAMES, len(basis.names)))
    weights[:, basis.names.index("jawOpen")] = 0.12 + 0.12 * np.sin(time / 4)
    for side in "LR":
        weights[:, basis.names.index(f"mouthSmile_{side}")] = 0.3 + 0.3 * np.sin(time / 9)
    angles = np.stack([15 * np.sin(time / 9), 8 * np.sin(time / 6), 5 * np.sin(time / 12)], 1)
    faces = basis.express(basis.person(rng.normal(0, 0.4, len(basis.identity))), weights)
    landmarks = y_up(6.0 * faces @ rotations(angles).transpose(0, 2, 1) + [130, -120, 0]).astype(np.float32)
    blendshapes = np.clip(weights @ np.linalg.pinv(basis.prior), 0, 1)
    return landmarks, blendshapes


@pytest.fixture(scope="module")
def motion(basis, driver):
    return fit_motion(basis, *driver, SIDE, 30.0)


@pytest.fixture(scope="module")
def source(basis):
    """Somebody else, smiling a little, turned a little, on the canvas of a square."""
    own = np.zeros(len(basis.names), np.float32)
    own[[basis.names.index(f"mouthSmile_{side}") for side in "LR"]] = 0.3
    camera = Camera(rotation_matrix(12, -4, 3).astype(np.float64), 13.0, np.array([380.0, 390, 0]))
    return HeadFit(np.random.default_rng(3).normal(0, 0.4, len(basis.identity)).astype(np.float32), own, camera, 0.0)


def laid(basis, motion, source, *more):
    return on_head(basis, motion, source, 2 * SIDE, *more)


def test_every_weight_has_one_control(basis):
    owned = [n for control in CONTROLS for n in weights_of(control, basis.names)]
    assert sorted(owned) == list(range(len(basis.names)))
    assert sorted(PARTS["eyes"] + PARTS["mouth_all"] + PARTS["head"]) == sorted(NAMES)


def test_a_head_lies_where_the_whole_face_lies(basis, driver, motion, source):
    """The place in the value, free of whose face it was, is the one that training lays by all landmarks."""
    fitted = fit_driver(basis, *driver)
    expression, angles = transfer(basis, fitted, source)
    affine = np.array([[1, 0, -0.5 * SIDE], [0, 1, -0.5 * SIDE]])
    wanted = place(basis, source, expression, angles, 2 * driver[0], affine, 2 * SIDE)
    found = laid(basis, motion, source)
    np.testing.assert_array_equal(found.expression, wanted.expression)
    np.testing.assert_array_equal(found.angles, wanted.angles)
    np.testing.assert_allclose(found.zoom, wanted.zoom, rtol=0.02)
    np.testing.assert_allclose(found.shift, wanted.shift, atol=0.006)


def test_unedited_is_the_same_to_the_bit(basis, motion, source):
    plain = laid(basis, motion, source)
    again = laid(basis, edit(motion, parse_edits("all*1, yaw=0, smile=0, lids=0")), source)
    for name in ("expression", "angles", "shift", "zoom"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(again, name))


@pytest.mark.parametrize("mode", ["absolute", "relative"])
def test_without_any_strength_it_is_the_source(basis, motion, source, mode):
    for moves in (edit(motion, parse_edits("all*0")), still(basis.names, 3)):
        found = laid(basis, moves, source, mode)
        np.testing.assert_allclose(
            found.expression, np.broadcast_to(source.expression, found.expression.shape), atol=1e-4
        )
        np.testing.assert_allclose(found.angles, np.broadcast_to([12, -4, 3], found.angles.shape), atol=1e-4)
        assert np.abs(found.shift).max() < 1e-6 and np.abs(found.zoom - 1).max() < 1e-6


def test_a_hundredth_of_strength_moves_a_hundredth(basis, motion, source):
    whole, part, none = (laid(basis, edit(motion, parse_edits(f"all*{k}")), source) for k in (1, 0.01, 0))
    for name in ("angles", "shift", "zoom"):
        a, b, c = (getattr(m, name).astype(float) for m in (whole, part, none))
        np.testing.assert_allclose(b - c, 0.01 * (a - c), atol=2e-5)
    moved, asked = part.expression - none.expression, 0.01 * (whole.expression - none.expression)
    assert np.abs(moved - asked).max() < 0.004  # limits of weights, not their sum, are what is not linear


@pytest.mark.parametrize(
    ("control", "by", "array", "column"),
    [("yaw", 12, "angles", 0), ("pitch", -7, "angles", 1), ("roll", 9, "angles", 2)],
)
def test_turning_is_by_so_many_degrees_about_the_neck(basis, motion, source, control, by, array, column):
    plain, turned = laid(basis, motion, source), laid(basis, edit(motion, [Edit(control, offset=by)]), source)
    change = getattr(turned, array) - getattr(plain, array)
    np.testing.assert_allclose(change[:, column], by, atol=1e-4)
    assert np.abs(np.delete(change, column, 1)).max() == 0
    np.testing.assert_array_equal(turned.shift, plain.shift)
    np.testing.assert_array_equal(turned.expression, plain.expression)


def test_closed_stays_closed_under_a_smile(basis, source):
    """An edit of one part must not open another: lids and lips are solved after the edits."""
    rest = basis.person(source.identity)
    smiling = laid(basis, edit(still(basis.names), parse_edits("smile=0.6, pucker=-0.5, brows=1")), source)
    plain = laid(basis, still(basis.names), source)
    faces = [basis.express(rest, m.expression)[0] for m in (plain, smiling)]
    for pairs in (*LIDS, *LIPS):
        assert gaps(faces[0], pairs) == pytest.approx(gaps(faces[1], pairs), abs=0.07)
    assert smiling.expression[0, basis.names.index("mouthSmile_L")] > 0.85
    closed = laid(basis, edit(still(basis.names), parse_edits("lids=-1")), source)
    for pairs in LIDS:
        assert gaps(basis.express(rest, closed.expression)[0], pairs) < 0.2 < 0.5 < gaps(faces[0], pairs)


@pytest.mark.parametrize(("control", "span"), [("brows", 0.051), ("jaw", 0.044)])
def test_one_is_the_natural_span(basis, control, span):
    """Of brows above the nose's bridge, and of the mouth's corners sideways, in distances of the eyes."""
    own = np.zeros(len(basis.names), np.float32)
    plain = HeadFit(np.zeros(len(basis.identity), np.float32), own, Camera(np.eye(3), 13.0, np.full(3, 380.0)), 0.0)
    ends = joined([edit(still(basis.names), [Edit(control, offset=by)]) for by in (-0.5, 0.5)])
    low, high = basis.express(basis.neutral, laid(basis, ends, plain).expression)
    chosen, axis = {"brows": ([70, 105, 107, 300, 334, 336], 1), "jaw": ([61, 291], 0)}[control]
    moved = (high - low)[chosen, axis].mean() / np.linalg.norm(basis.neutral[33] - basis.neutral[263])
    assert moved == pytest.approx(span, rel=0.2)


def test_offsets_stay_within_natural_weights(basis, source):
    most = laid(basis, edit(still(basis.names), parse_edits("smile=1, brows=1, jaw=-1")), source).expression[0]
    weight = dict(zip(basis.names, most, strict=True))
    limits = {"mouthSmile_L": 1, "browInnerUp_L": 1.16, "browOuterUp_R": 1.16, "jawRight": 1.18}
    assert {name: weight[name] for name in limits} == pytest.approx(limits, abs=1e-3)


def test_relative_motion_starts_from_the_source(basis, motion, source):
    found = laid(basis, motion, source, "relative", 5)
    assert np.abs(found.shift[5]).max() < 1e-6 and found.zoom[5] == pytest.approx(1)
    np.testing.assert_allclose(found.angles[5], [12, -4, 3], atol=1e-3)


def test_edits_add_up_in_order():
    moves = still(("jawOpen",), 2)
    twice = edit(replace(moves, strength=np.ones_like(moves.strength)), parse_edits("smile*0.5, smile=0.2, smile*0.5"))
    number = NAMES.index("smile")
    assert twice.strength[0, number] == 0.25 and twice.offset[0, number] == pytest.approx(0.1)
    assert twice.edited == ("smile",)


def test_what_the_driver_still_shows(basis, motion):
    assert motion.agreeing == ("eyes", "nose", "mouth")
    assert edit(motion, parse_edits("smile=0.5")).agreeing == ("eyes", "nose")
    assert edit(motion, parse_edits("gaze*0.5")).agreeing == ("nose", "mouth")
    assert edit(motion, parse_edits("yaw=5")).agreeing == ()
    assert edit(motion, parse_edits("head@0")).agreeing == ()
    assert mix(motion, eyes=motion).agreeing == ("nose", "mouth")
    assert reverse(motion).agreeing == retime(motion, 0.5).agreeing == still(basis.names).agreeing == ()
    assert motion[:20].agreeing == smooth(motion, 1).agreeing == ("eyes", "nose", "mouth")


def test_time(motion):
    assert equal(reverse(reverse(motion)), motion) and equal(smooth(motion, 0), motion)
    assert smooth(motion, 2).angles.std() < motion.angles.std()
    slow = retime(motion, 0.5)
    assert len(slow) == 2 * FRAMES - 1
    assert all(np.array_equal(getattr(slow, name)[::2], getattr(motion, name)) for name in ROWS)
    np.testing.assert_allclose(slow.angles[1], motion.angles[:2].mean(0), atol=1e-5)
    assert equal(retime(slow, 2), motion)
    assert len(fit_length(motion, 80)) == 80 and equal(fit_length(motion, 80)[59:60], fit_length(motion, 80)[79:80])
    ring = loop(motion, 3, seam=10)
    assert len(ring) == 3 * (FRAMES - 10)
    step = np.abs(np.diff(ring.angles, axis=0)).max(1)
    assert step[FRAMES - 11] < 2 * np.abs(np.diff(motion.angles, axis=0)).max()
    assert len(joined([motion, motion])) == 2 * FRAMES


def test_between_two(motion):
    back = reverse(motion)
    assert equal(blend(motion, back, 0), motion) and equal(blend(motion, back, 1), back)
    middle = blend(motion, back, 0.5)
    np.testing.assert_allclose(middle.lips, (motion.lips + back.lips) / 2, atol=1e-6)
    with pytest.raises(UserError, match="60 and 30 frames"):
        blend(motion, motion[:30], 0.5)


def test_frozen_parts_stand_still(motion):
    held = freeze(motion, PARTS["head"], 7)
    assert np.ptp(held.angles, 0).max() == 0 and np.array_equal(held.angles[0], motion.angles[7])
    np.testing.assert_array_equal(held.expression, motion.expression)
    with pytest.raises(UserError, match="frame 60 is not among the motion's 60"):
        edit(motion, parse_edits("head@60"))


def test_three_drivers_on_one_time_line(basis, motion):
    eyes, mouth = reverse(motion), smooth(motion, 5)
    eyes = edit(replace(eyes, fps=60.0), parse_edits("brows=0.25"))
    mixed = mix(motion, eyes, mouth)
    assert len(mixed) == FRAMES // 2 and mixed.fps == 30
    np.testing.assert_array_equal(mixed.angles, motion.angles[:30])
    np.testing.assert_array_equal(mixed.lids, eyes.lids[::2])
    np.testing.assert_array_equal(mixed.lips, mouth.lips[:30])
    jaw, gaze = basis.names.index("jawOpen"), basis.gaze
    np.testing.assert_array_equal(mixed.expression[:, jaw], mouth.expression[:30, jaw])
    np.testing.assert_array_equal(mixed.expression[:, gaze], eyes.expression[::2][:, gaze])
    assert mixed.edited == ("brows",)
    assert len(mix(motion, eyes, mouth, longest=True)) == FRAMES


def test_a_file_is_exact(basis, motion, tmp_path):
    moves = edit(smooth(motion, 1.3), parse_edits("smile=0.333, yaw*0.7, lids@3"))
    assert equal(from_text(to_text(moves), basis.names), moves)
    save_motion(tmp_path / "a.motion.json", moves)
    assert equal(load_motion(tmp_path / "a.motion.json", basis.names), moves)
    assert equal(from_text(to_text(still(basis.names, 2)), basis.names), still(basis.names, 2))
    rng = np.random.default_rng(1)
    numbers = (rng.standard_normal((FRAMES * 50, 3)) * 10.0 ** rng.integers(-9, 2, (FRAMES * 50, 3))).astype(np.float32)
    numbers[:4, 0] = [-0.0, 1e-45, np.finfo(np.float32).tiny, np.nextafter(np.float32(1), np.float32(2))]
    wild = replace(still(basis.names, len(numbers)), angles=numbers.clip(-180, 180))
    again = from_text(to_text(wild), basis.names)
    assert equal(again, wild) and np.array_equal(np.signbit(again.angles), np.signbit(wild.angles))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: "{", "is not JSON"),
        (lambda c: "[" * 100000, "is not JSON"),
        (lambda c: "[1]", '"format" must be "svdp-motion"'),
        (lambda c: {**c, "version": 2}, "is of version 2"),
        (lambda c: {**c, "frames": 1e9}, "frames must be a whole number from 1 to"),
        (lambda c: {**c, "frames": True}, "frames must be a number, got True"),
        (lambda c: {**c, "fps": 0}, "fps must be above 0"),
        (lambda c: {**c, "fps": float("inf")}, "fps must be a number, got inf"),
        (lambda c: json.dumps(c).replace('"frames": 60', f'"frames": {"6" * 5000}'), "is not JSON"),
        (lambda c: "", "is not JSON"),
        (lambda c: {n: v for n, v in c.items() if n != "frames"}, "frames must be a number, got None"),
        (
            lambda c: {**c, "angles": {**c["angles"], "roll": [0.0] * 61}},
            "angles roll has 61 numbers, and there are 60",
        ),
        (lambda c: {**c, "lips": {**c["lips"], "left": 0.5}}, "lips left has no list, and there are 60 frames"),
        (lambda c: {**c, "place": {**c["place"], "x": [float("inf")] * 60}}, "place x holds something that is not"),
        (lambda c: {**c, "strength": {"smile": [None] * 60}}, "strength smile holds something that is not"),
        (lambda c: {**c, "angles": {**c["angles"], "yaw": [0.0] * 59}}, "angles yaw has 59 numbers, and there are 60"),
        (lambda c: {**c, "angles": {"yaw": c["angles"]["yaw"]}}, "angles lacks pitch, roll"),
        (lambda c: {**c, "lids": {**c["lids"], "left": [float("nan")] * 60}}, "lids left holds something that is not"),
        (lambda c: {**c, "lids": {**c["lids"], "left": [10**400] * 60}}, "lids left holds something that is not"),
        (lambda c: {**c, "lips": {**c["lips"], "left": ["0"] * 60}}, "lips left holds something that is not"),
        (lambda c: {**c, "expression": {"jawOpen": [2.0] * 60}}, "expression must be from 0 to 1"),
        (lambda c: {**c, "expression": {"snarl": [0.0] * 60}}, "expression has no 'snarl'"),
        (lambda c: {**c, "offset": [1]}, "offset must be an object of lists"),
        (lambda c: {**c, "place": {**c["place"], "size": [0.0] * 60}}, "the size in place must be above 0"),
    ],
)
def test_bad_files_are_refused_in_one_line(basis, motion, change, said):
    made = change(json.loads(to_text(motion)))
    with pytest.raises(UserError, match="the motion") as refused:
        from_text(made if isinstance(made, str) else json.dumps(made), basis.names)
    assert said in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_files_that_cannot_be_read_are_one_line(basis, tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{"format": "\xe9"}')
    for name, said in (("latin.json", "is not JSON"), ("gone.json", "check the path"), (".", "check the path")):
        with pytest.raises(UserError, match=said) as refused:
            load_motion(tmp_path / name, basis.names)
        assert "\n" not in str(refused.value)


def test_a_zoom_beyond_all_measure_is_still_a_head(basis, source):
    content = json.loads(to_text(still(basis.names))) | {"offset": {"zoom": [90.0]}}
    found = laid(basis, from_text(json.dumps(content), basis.names), source)
    assert np.isfinite(found.zoom).all() and found.zoom[0] == pytest.approx(np.exp(4))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("smile", r"cannot read the edit 'smile': write smile=0.5, yaw\*0.5 or head@0"),
        ("smirk=1", "unknown control 'smirk'"),
        ("smile=nan", "is not a finite number"),
        ("smile=x", "'x' is not a number"),
        ("smile=2", "smile=2 is out of range: choose from -1 to 1"),
        ("rest=0.5", "out of range"),
        ("yaw*-1", r"yaw\*-1 is out of range: choose from 0 to 3"),
        ("eyes=1", "an offset moves one control, choose among gaze_sideways, gaze_up, lids, brows"),
        ("head@1.5", "'1.5' is not a frame's number"),
        ("head@-1", "frames are counted from 0"),
    ],
)
def test_bad_edits_are_refused(text, said):
    with pytest.raises(UserError, match=said):
        parse_edits(text)


def test_edits_in_words():
    assert parse_edits(" smile = 0.5 ,yaw*.5,, jaw@3 ") == (
        Edit("smile", offset=0.5), Edit("yaw", strength=0.5), Edit("jaw", held=3)
    )  # fmt: skip
    assert [e.control for e in parse_edits("eyes*0")] == list(PARTS["eyes"])
