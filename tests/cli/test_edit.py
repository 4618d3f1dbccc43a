"""`svdp edit`, and edits in `svdp animate`: pictures and videos by sliders and files of motion, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from svdp.heads.controls import CONTROLS
from svdp.heads.motion_file import load_motion
from svdp.heads.pose import open_rig
from svdp.signals.images import load_image
from svdp.signals.track import detect_face
from svdp.signals.video import VideoReader

SMALL = ("--resolution", "128")


@pytest.fixture(scope="module")
def names():
    return open_rig(128, 1.7)[1].names


@pytest.fixture
def edit(svdp, examples, tmp_path):
    """edit(*options): `svdp edit` of the example's portrait; exit code and what was said."""

    def call(*options: str | Path, output: Path = tmp_path / "out.png") -> tuple[int, str]:
        return svdp("edit", "-s", examples.source, "-o", output, *SMALL, *options)

    return call


@pytest.fixture(scope="module")
def motion_file(tmp_path_factory, assets_dir):
    """A motion taken from the example clip, as `svdp animate` writes it; and the draft that it came with."""
    from svdp.cli.app import run

    folder = tmp_path_factory.mktemp("motion")
    examples = assets_dir / "examples"
    arguments = ["animate", "-s", examples / "source.jpg", "-d", examples / "driving.mp4", "-o", folder / "draft.mp4"]
    arguments += ["--draft", "--max-frames", "12", *SMALL, "--save-motion", folder / "a.json", "--keep-crop"]
    with pytest.raises(SystemExit) as end:
        run([str(a) for a in arguments])
    assert not end.value.code
    return folder / "a.json"


def test_sliders_change_a_picture_without_any_video(edit, tmp_path, examples):
    assert edit("--edit", "mouth=0.6, yaw=8")[0] == 0
    made, before = load_image(tmp_path / "out.png"), load_image(examples.source)
    assert made.shape == before.shape
    found, was = detect_face(made), detect_face(before)
    assert found.mouth_open[0] > was.mouth_open[0] + 0.2
    assert found.euler[0, 0] > was.euler[0, 0] + 4


def test_without_edits_it_is_the_portrait_drawn_anew(edit, tmp_path, examples):
    assert edit()[0] == 0
    made, before = load_image(tmp_path / "out.png").astype(float), load_image(examples.source)
    assert 0 < np.abs(made - before).mean() < 1  # of 128 pixels, pasted back


def test_a_motion_file_makes_the_same_draft(motion_file, edit, tmp_path):
    assert edit("--motion-file", motion_file, "--keep-crop", output=tmp_path / "again.mp4")[0] == 0
    ours, theirs = (list(VideoReader(p)) for p in (tmp_path / "again.mp4", motion_file.with_name("draft.mp4")))
    assert len(ours) == len(theirs) == 12
    assert np.abs(np.stack(ours).astype(float) - np.stack(theirs)).mean() < 0.5
    assert VideoReader(tmp_path / "again.mp4").info.fps == 30


def test_time_and_several_files(motion_file, edit, tmp_path, names):
    options = ("--motion-file", motion_file, "--eyes", motion_file, "--reverse", "--speed", "0.5", "--loop", "2")
    kept = ("--save-motion", tmp_path / "b.json", "--edit", "smile*0.5")
    assert edit(*options, *kept, "--first", "2", output=tmp_path / "b.mp4")[0] == 0
    frames = 2 * (19 - 6)  # ten frames, nine more between them, six of the nineteen for the seam, twice
    assert VideoReader(tmp_path / "b.mp4").info.declared_frames == frames
    made = load_motion(tmp_path / "b.json", names)
    assert len(made) == frames and made.edited == ("smile",)


def test_edits_in_animate(animate, motion_file, tmp_path, names):
    """The same clip, its mouth half as strong; the driver's motion from a file in place of its own."""
    options = ("--draft", "--max-frames", "12", *SMALL, "--keep-crop", "--edit", "mouth*0.5, yaw=10")
    code, said = animate(*options, "--motion-file", motion_file, "--save-motion", tmp_path / "b.json")
    assert code == 0 and "contradict" not in said
    made, plain = load_motion(tmp_path / "b.json", names), load_motion(motion_file, names)
    assert made.edited == ("yaw", "mouth")
    np.testing.assert_array_equal(made.expression, plain.expression)
    assert VideoReader(tmp_path / "out.mp4").info.declared_frames == 12


def test_pixels_that_contradict_an_edit_are_left_out(svdp, examples, tmp_path):
    """With a model: the bundled one, one step."""
    options = ("--max-frames", "3", "--steps", "1", "--no-contact-sheet", "--edit", "smile=0.5")
    code, said = svdp("animate", "-s", examples.source, "-d", examples.driving, "-o", tmp_path / "a.mp4", *options)
    assert code == 0, said
    assert "the driver's mouth contradict the edited motion: their pixels are left out" in said
    turned = (*options[:-1], "yaw=8")
    code, said = svdp("animate", "-s", examples.source, "-d", examples.driving, "-o", tmp_path / "b.mp4", *turned)
    assert code == 0 and "the driver's eyes, nose, mouth contradict" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--edit", "smirk=1"), "unknown control 'smirk': choose among yaw, pitch"),
        (("--edit", "smile=1e9"), "smile=1e+09 is out of range"),
        (("--eyes", "x.json"), "--eyes and --mouth need --motion-file"),
        (("--motion", "sideways"), "unknown motion 'sideways'"),
        (("--motion-file", "gone.json"), "cannot read the motion gone.json"),
        (("--save-motion", "a.txt"), "--save-motion a.txt must end in .json"),
        (("--edit", "head@3"), "frame 3 is not among the motion's 1"),
    ],
)
def test_refusals_of_edit(edit, tmp_path, options, said):
    code, told = edit(*options)
    assert code == 2 and said in told
    assert not (tmp_path / "out.png").exists()


def test_refused_outputs(edit, examples, tmp_path, motion_file):
    assert "must end in one of .png" in edit(output=tmp_path / "a.gif")[1]
    assert "is also an input" in edit(output=examples.source)[1]
    assert "a video needs --motion-file" in edit(output=tmp_path / "a.mp4")[1]
    (tmp_path / "out.png").write_bytes(b"mine")
    assert "exists already" in edit()[1] and (tmp_path / "out.png").read_bytes() == b"mine"
    assert "--save-motion" in edit("--motion-file", motion_file, "--save-motion", motion_file, "--overwrite")[1]


def test_broken_motion_is_one_line(edit, tmp_path, motion_file):
    content = json.loads(motion_file.read_text())
    content["lids"]["left"][3] = float("nan")
    (tmp_path / "bad.json").write_text(json.dumps(content))
    code, said = edit("--motion-file", tmp_path / "bad.json", output=tmp_path / "b.mp4")
    assert code == 2 and "lids left holds something that is not a finite number" in said
    assert not list(tmp_path.glob("b*.mp4"))


def test_help_names_every_control(svdp, capsys):
    from svdp.cli.app import run

    with pytest.raises(SystemExit):
        run(["edit", "--help"])
    shown = capsys.readouterr().out
    assert all(control.name in shown for control in CONTROLS if control.limit)
