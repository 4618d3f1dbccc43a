"""Tracks as files."""

import numpy as np
import pytest
from svdp.errors import UserError
from svdp.signals.detector import BLENDSHAPES, NUM_LANDMARKS
from svdp.signals.track import FaceTrack
from svdp.signals.track_file import load_track, save_track


def make_track(frames: int) -> FaceTrack:
    g = np.random.default_rng(0)
    return FaceTrack(
        g.random((frames, NUM_LANDMARKS, 3), np.float32) * 400,
        g.random((frames, len(BLENDSHAPES)), np.float32),
        g.random((frames, 4, 4), np.float32),
        g.random(frames) > 0.3,
        (301, 402),
    )


def test_a_track_comes_back_as_it_was(tmp_path):
    track, path = make_track(7), tmp_path / "a folder" / "Clip \u00e4\u4eba.track.npz"
    save_track(path, track)
    again = load_track(path)
    for name in ("landmarks", "blendshapes", "matrices", "present"):
        assert np.array_equal(getattr(again, name), getattr(track, name))
        assert getattr(again, name).dtype == getattr(track, name).dtype
    assert again.image_size == (301, 402) and again.missing == track.missing
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing half-written is left"


def test_what_is_not_a_track_is_told(tmp_path):
    path = tmp_path / "x.track.npz"
    with pytest.raises(UserError, match="not there"):
        load_track(path)
    path.write_bytes(b"not a track")
    with pytest.raises(UserError, match="save it again"):
        load_track(path)
    save_track(path, make_track(3))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UserError, match="save it again"):
        load_track(path)
    np.savez(path, format=9, image_size=[1, 1], landmarks=[0], blendshapes=[0], matrices=[0], present=[0])
    with pytest.raises(UserError, match="another version"):
        load_track(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_track(tmp_path / "file" / "x.track.npz", make_track(1))
