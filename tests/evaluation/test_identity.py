"""Identity: alignment of a face by its points, embeddings of videos, and real embedders where they are installed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from svdp.errors import UserError
from svdp.evaluation.identity import (
    DlibEmbedder,
    TFLiteEmbedder,
    align_face,
    embed_video,
    find_embedder,
    mean_embedding,
    spread,
)
from svdp.signals.images import load_image
from svdp.signals.track import FaceTrack, detect_face

HAS_DLIB = all(importlib.util.find_spec(m) for m in ("dlib", "face_recognition_models"))
PORTRAITS = ("source.jpg", "source2.jpg")


class ColourEmbedder:
    """Tells persons by the colour of their face: real enough to be swapped."""

    name, same_from = "colour", 0.5

    def embed(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        colour = align_face(picture, landmarks, (0, 1, 2), ((2, 2), (6, 2), (4, 6)), 8).mean((0, 1)) - 127.5
        return np.float32(colour / np.linalg.norm(colour))


def made_track(num_frames: int, size: int = 32) -> FaceTrack:
    """A face that fills the picture and stands still."""
    landmarks = np.zeros((num_frames, 478, 3), np.float32)
    landmarks[:, :3, :2] = np.array([(2, 2), (6, 2), (4, 6)]) * size / 8
    eye = np.tile(np.eye(4, dtype=np.float32), (num_frames, 1, 1))
    return FaceTrack(landmarks, np.zeros((num_frames, 52), np.float32), eye, np.ones(num_frames, bool), (size, size))


def paint(*colour: int) -> np.ndarray:
    return np.full((32, 32, 3), colour, np.uint8)


def test_alignment_undoes_a_known_turn():
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    points = np.array([(10, 12), (50, 14), (32, 55)], np.float32)
    landmarks = np.zeros((478, 3), np.float32)
    landmarks[:3, :2] = points
    same = align_face(picture, landmarks, (0, 1, 2), [tuple(p) for p in points.tolist()], 64)
    np.testing.assert_allclose(same, picture, atol=1)
    quarter = np.ascontiguousarray(np.rot90(picture))  # x, y of the picture are at y, 64 - x now
    landmarks[:3, :2] = np.stack([points[:, 1], 64 - points[:, 0]], axis=1)
    back = align_face(quarter, landmarks, (0, 1, 2), [tuple(p) for p in points.tolist()], 64)
    np.testing.assert_allclose(back, picture, atol=1)


def test_a_swapped_person_is_seen_from_the_frame_of_the_swap_on():
    frames = [paint(250, 60, 60)] * 6 + [paint(20, 220, 220)] * 4
    track = made_track(10)
    vectors = embed_video(frames, track, ColourEmbedder())
    likeness = vectors @ vectors[0]
    np.testing.assert_allclose(likeness[:6], 1, atol=1e-5)
    assert (likeness[6:] < -0.9).all()


def test_frames_without_a_face_or_not_asked_for_are_nan():
    track = made_track(6)
    track.present[2] = False
    vectors = embed_video([paint(200, 50, 50)] * 6, track, ColourEmbedder(), numbers=[1, 2, 3])
    assert np.isfinite(vectors).all(1).tolist() == [False, True, False, True, False, False]
    middle = mean_embedding(vectors)
    assert middle is not None
    np.testing.assert_allclose(middle, vectors[1], atol=1e-6)
    assert mean_embedding(vectors[:1]) is None


def test_a_held_picture_is_looked_at_once():
    class Counting(ColourEmbedder):
        looks = 0

        def embed(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
            self.looks += 1
            return super().embed(picture, landmarks)

    held, embedder = paint(200, 50, 50), Counting()
    vectors = embed_video([held] * 6, made_track(6), embedder)
    assert embedder.looks == 1
    assert np.isfinite(vectors).all()
    moving = made_track(6)
    moving.landmarks[3:] += 1
    embed_video([held] * 6, moving, embedder)
    assert embedder.looks == 3


def test_spread_frames():
    assert spread(5, 32) == [0, 1, 2, 3, 4]
    assert spread(101, 3) == [0, 50, 100]


def test_without_an_embedder_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    embedder, reason = find_embedder("auto")
    assert embedder is None
    assert "dlib" in reason and "pip install 'video-driven-portraits[identity]'" in reason
    with pytest.raises(UserError, match="identity"):
        find_embedder("dlib")


def test_choices_that_cannot_be_had(tmp_path: Path):
    assert find_embedder("none") == (None, "identity was not asked for")
    with pytest.raises(UserError, match=r"unknown embedder 'arcface'"):
        find_embedder("arcface")
    with pytest.raises(UserError, match=r"nothing\.tflite does not exist"):
        find_embedder(str(tmp_path / "nothing.tflite"))


def same_and_different(embedder, assets_dir: Path) -> tuple[float, float]:
    """Similarity of a portrait to its own smaller, darker copy, and to another person's."""
    pictures = [load_image(assets_dir / "examples" / name) for name in PORTRAITS]
    shrunk = np.uint8(pictures[0][::3, ::3] * 0.8)
    a, again, b = (embedder.embed(p, detect_face(p).landmarks[0]) for p in (pictures[0], shrunk, pictures[1]))
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5)
    return float(a @ again), float(a @ b)


@pytest.mark.skipif(not HAS_DLIB, reason="the extra 'identity' is not installed")
def test_dlib_tells_two_people_apart(assets_dir: Path):
    embedder = DlibEmbedder()
    same, different = same_and_different(embedder, assets_dir)
    assert same > 0.8 > embedder.same_from > different


@pytest.mark.shared
@pytest.mark.skipif(not importlib.util.find_spec("ai_edge_litert"), reason="ai-edge-litert is not installed")
def test_a_tflite_file_tells_two_people_apart(shared_dir: Path, assets_dir: Path):
    embedder = TFLiteEmbedder(shared_dir / "models" / "MobileFaceNet.tflite")
    same, different = same_and_different(embedder, assets_dir)
    assert same > 0.8 > embedder.same_from > different
