"""Motion nodes in real ComfyUI: sliders on one portrait, a driver edited, mixed, timed, saved and loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from svdp.errors import UserError
from svdp.heads.face_motion import equal

from .test_signal_nodes import crop, driver, media, track

__all__ = ["driver", "media"]  # fixtures


@pytest.fixture(scope="module")
def motion(driver) -> Any:
    from svdp.nodes.motion import SVDPDriverMotion

    made, report = SVDPDriverMotion.execute(driver[2], 30.0).args
    assert len(made) == 6 and "6 frames, 30 frames/s" in report
    return made


def edit(motion: Any = None, **sliders: Any) -> tuple[Any, ...]:
    """Edit Motion with its own defaults."""
    from svdp.nodes.motion import SVDPEditMotion

    usual = {i.id: i.default for i in SVDPEditMotion.GET_SCHEMA().inputs if i.id != "motion"}
    return SVDPEditMotion.execute(motion=motion, **{**usual, **sliders}).args


def pose(portrait: torch.Tensor, moves: Any, **changed: Any) -> torch.Tensor:
    from svdp.nodes.signals import SVDPPosePortrait

    settings = {"size": 128, "motion": "absolute", "reference": 0, "scale": 1.9, **changed}
    return SVDPPosePortrait.execute(portrait, driver_motion=moves, **settings).args[0]


def test_a_driver_without_edits_is_the_draft_to_the_bit(media, driver, motion):
    from svdp.nodes.signals import SVDPPosePortrait

    face, *_ = track(media[0])
    plain = SVDPPosePortrait.execute(media[0], 128, "absolute", 0, 1.9, track=face, driver_track=driver[2]).args[0]
    made, told, *agree = edit(motion)
    assert agree == [True] * 3 and "edited: nothing" in told
    assert torch.equal(pose(media[0], made, track=face), plain)
    assert not torch.equal(pose(media[0], edit(motion, smile=0.4)[0], track=face), plain)


def test_sliders_edit_one_portrait(media):
    still, _, *agree = edit()
    assert len(still) == 1 and agree == [False] * 3
    face, *_ = track(media[0])
    cropped, *_ = crop(media[0], track=face)
    plain = pose(media[0], still, track=face)
    assert float((plain - cropped).abs().mean()) < 0.004
    opened = pose(media[0], edit(mouth=0.6)[0], track=face)
    found, *_ = track(opened)
    assert found.mouth_open[0] > track(plain)[0].mouth_open[0] + 0.2


def test_what_contradicts_is_said(motion):
    assert list(edit(motion, smile=0.5)[2:]) == [True, True, False]
    _, told, *agree = edit(motion, yaw=5.0)
    assert agree == [False] * 3 and "the driver's eyes, nose, mouth contradict the edits" in told
    assert list(edit(motion, freeze="eyes")[2:]) == [False, True, True]


def test_lines_become_frames(media):
    from svdp.nodes.motion import SVDPExpressions

    (moves,) = SVDPExpressions.execute("smile=0.8\n\nyaw=10, lids=-1", 0, 25.0).args
    assert len(moves) == 3 and [int((row != 0).sum()) for row in moves.offset] == [1, 0, 2]
    (film,) = SVDPExpressions.execute("\nsmile=0.8", 10, 25.0).args
    assert len(film) == 11 and film.offset.max() == film.offset[-1].max() and film.offset[5].max() == pytest.approx(0.4)
    with pytest.raises(UserError, match="line 2: unknown control 'grin'"):
        SVDPExpressions.execute("smile=0.8\ngrin=1", 0, 25.0)


def test_mixed_and_timed(motion):
    from svdp.nodes.motion import SVDPMixMotion, SVDPTimeMotion

    (back,) = SVDPTimeMotion.execute(motion, 0, 0, True, 1.0, 0.0, 1, 6).args
    (mixed,) = SVDPMixMotion.execute(motion, 0.5, "shortest", eyes=back).args
    assert (mixed.lids == back.lids).all() and (mixed.angles == motion.angles).all()
    (between,) = SVDPMixMotion.execute(motion, 1.0, "shortest", blend_with=back).args
    assert equal(between, back)
    (long,) = SVDPTimeMotion.execute(motion, 1, 4, False, 0.5, 0.0, 2, 2).args
    assert len(long) == 2 * (7 - 2)
    with pytest.raises(UserError, match="first frame 6 is not among"):
        SVDPTimeMotion.execute(motion, 6, 0, False, 1.0, 0.0, 1, 0)


def test_saved_and_loaded(motion, tmp_path, monkeypatch):
    import folder_paths
    from svdp.nodes.motion import SVDPLoadMotion, SVDPSaveMotion, motion_files

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    made = edit(motion, smile=0.3)[0]
    names = [SVDPSaveMotion.execute(made, "wink").args[0] for _ in range(2)]
    assert names == ["wink.motion.json", "wink_1.motion.json"] == motion_files()
    assert equal(SVDPLoadMotion.execute(names[0]).args[0], made)
    assert SVDPSaveMotion.validate_inputs("wink") is True and SVDPSaveMotion.validate_inputs(None) is True
    for bad in ("../wink", "a/b", "", ".wink", "a\\b", "a:b"):
        assert "must be of letters" in SVDPSaveMotion.validate_inputs(bad)
        with pytest.raises(UserError, match="must be of letters"):
            SVDPSaveMotion.execute(made, bad)
    (tmp_path / "bad.motion.json").write_text('{"format": "svdp-motion"')
    with pytest.raises(UserError, match="is not JSON"):
        SVDPLoadMotion.execute("bad.motion.json")
