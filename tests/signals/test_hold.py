"""Squares of frames without a face are held from their neighbours."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from svdp.signals.crops import CropConfig, crop_frame, plan_crop
from svdp.signals.detector import BLENDSHAPES, NUM_LANDMARKS
from svdp.signals.hold import held_squares, share_after
from svdp.signals.smoothing import fill_missing
from svdp.signals.track import FaceTrack, describe_track

FRAMES, SIZE, FPS = 12, 48, 24.0
HAND = 250  # value of the pixels of frames that show no face


def make_clip(missing: list[int], step: float = 2.0) -> tuple[list[np.ndarray], FaceTrack]:
    """A face of flat colour, brighter from frame to frame, that moves to the right; missing frames show a hand."""
    g = np.random.default_rng(0)
    shape = np.concatenate([g.uniform(-20, 20, (NUM_LANDMARKS, 2)), np.zeros((NUM_LANDMARKS, 1))], axis=1)
    shape[33, :2], shape[263, :2] = (-15, 0), (15, 0)
    landmarks = np.stack([shape + np.array([60 + step * t, 60, 0]) for t in range(FRAMES)]).astype(np.float32)
    present = ~np.isin(np.arange(FRAMES), missing)
    frames = [np.full((120, 160, 3), HAND if t in missing else 10 * t, np.uint8) for t in range(FRAMES)]
    matrices = np.tile(np.eye(4, dtype=np.float32), (FRAMES, 1, 1))
    filled = fill_missing(landmarks, present)
    blendshapes = np.zeros((FRAMES, len(BLENDSHAPES)), np.float32)
    return frames, FaceTrack(filled, blendshapes, matrices, present, (120, 160))


def squares(missing: list[int], fps: float = FPS) -> list[np.ndarray]:
    frames, track = make_clip(missing)
    return list(held_squares(iter(frames), track, plan_crop(track, CropConfig(size=SIZE)), fps))


def test_frames_with_a_face_are_cut_as_ever():
    frames, track = make_clip([4])
    crop = plan_crop(track, CropConfig(size=SIZE))
    made = list(held_squares(frames, track, crop, FPS))
    assert len(made) == FRAMES
    for t in set(range(FRAMES)) - {4}:
        assert np.array_equal(made[t], crop_frame(frames[t], crop.affines[t], SIZE))


@pytest.mark.parametrize("missing", [[4], [4, 5, 6], [0, 1], [10, 11], list(range(1, 11)), list(range(11))])
def test_nothing_of_a_frame_without_a_face_is_shown(missing):
    made = squares(missing)
    assert len(made) == FRAMES and max(int(s.max()) for s in made) < HAND - 20


def test_a_short_gap_takes_the_nearest_and_a_long_one_fades():
    assert [int(s.mean()) for s in squares([4, 5, 6, 7])][3:9] == [30, 30, 30, 80, 80, 80]
    faded = [float(s.mean()) for s in squares(list(range(2, 10)), fps=8.0)]
    middle = faded[2:10]
    assert faded[1] == 10 and faded[10] == 100
    assert middle == sorted(middle) and len({m for m in middle if 10 < m < 100}) >= 2
    assert share_after(2, 1, 10, 8.0) == 0 and share_after(9, 1, 10, 8.0) == 1


def test_the_held_face_lies_where_the_track_says():
    """A marked point of the face is found at its own place in every square."""
    frames, track = make_clip([5])
    for t, frame in enumerate(frames):
        frame[:] = HAND if t == 5 else 0
        if t != 5:
            x, y = track.landmarks[t, 100, :2].astype(int)
            frame[y - 3 : y + 4, x - 3 : x + 4] = 200
    crop = plan_crop(track, CropConfig(size=SIZE, position="locked"))
    made = list(held_squares(frames, track, crop, FPS))
    centre = [np.argwhere(s[..., 0] > 100).mean(0) for s in (made[4], made[5], made[6])]
    between = (centre[0] + centre[2]) / 2
    assert np.abs(centre[1] - between).max() < 1.0 and centre[2][1] - centre[0][1] > 1


def test_frames_are_read_one_by_one_and_a_short_file_gives_what_it_has():
    frames, track = make_clip([3])
    read = []

    def reading() -> Iterator[np.ndarray]:
        for t, frame in enumerate(frames):
            read.append(t)
            yield frame

    made = held_squares(reading(), track, plan_crop(track, CropConfig(size=SIZE)), FPS)
    next(made)
    assert read == [0]
    assert len(list(held_squares(frames[:5], track, plan_crop(track, CropConfig(size=SIZE)), FPS))) == 5


def test_the_report_lists_them():
    _, track = make_clip([3, 4, 9])
    assert "interpolated: 3-4, 9 (the face is held" in describe_track(track)
    assert "held" not in describe_track(replace(track, present=np.ones(FRAMES, bool)))
