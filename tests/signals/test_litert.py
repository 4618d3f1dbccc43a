"""The FaceLandmarker file by LiteRT beside the same file by MediaPipe, and what is chosen when."""

import importlib.metadata
import importlib.util
import logging
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from svdp.errors import UserError
from svdp.signals import landmarker as landmarker_module
from svdp.signals.detector import Detection, Landmarker
from svdp.signals.finder import FaceFinder
from svdp.signals.head_matrix import HeadGeometry
from svdp.signals.landmarker import choose_runner, open_landmarker
from svdp.signals.litert import LiteRTLandmarker, merged

needs_litert = pytest.mark.skipif(not importlib.util.find_spec("ai_edge_litert"), reason="ai-edge-litert is missing")


@pytest.fixture(autouse=True)
def _undecided():
    choose_runner.cache_clear()
    yield
    choose_runner.cache_clear()


@pytest.fixture(scope="module")
def pictures(assets_dir: Path, read_clip) -> list[np.ndarray]:
    """The bundled portraits, whole, turned and cut to odd sizes, and every second frame of the bundled clips."""
    examples = assets_dir / "examples"
    stills = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(examples.glob("source*.jpg"))]
    odd = [np.ascontiguousarray(np.rot90(stills[0])), stills[0][:, 101:], stills[1][33:, :475]]
    return stills + odd + [f for p in sorted(examples.glob("driving*.mp4")) for f in list(read_clip(p))[::2]]


@pytest.fixture(scope="module")
def both(pictures) -> list[tuple[Detection, Detection]]:
    """The face of every picture, by MediaPipe and by LiteRT."""
    pytest.importorskip("ai_edge_litert")
    theirs, ours = Landmarker(), LiteRTLandmarker()
    pairs = [(theirs(picture), ours(picture)) for picture in pictures]
    assert [len(a) for a, _ in pairs] == [len(b) for _, b in pairs] == [1] * len(pairs)
    theirs.close()
    ours.close()
    return [(a[0], b[0]) for a, b in pairs]


@needs_litert
def test_the_same_landmarks_within_a_pixel(both):
    apart = np.stack([np.linalg.norm((a.landmarks - b.landmarks)[:, :2], axis=1) for a, b in both])
    assert np.median(apart) < 0.1
    assert apart.max() < 1
    assert max(np.abs((a.landmarks - b.landmarks)[:, 2]).max() for a, b in both) < 1


@needs_litert
def test_the_same_blendshapes(both):
    apart = np.stack([np.abs(a.blendshapes - b.blendshapes) for a, b in both])
    assert np.median(apart) < 0.001
    assert apart.max() < 0.05


@needs_litert
def test_the_same_head_matrix(both):
    for theirs, ours in both:
        turn = theirs.matrix[:3, :3] @ ours.matrix[:3, :3].T
        assert np.degrees(np.arccos(min((np.trace(turn) / np.cbrt(np.linalg.det(turn)) - 1) / 2, 1))) < 0.5
        np.testing.assert_allclose(ours.matrix[:3, 3], theirs.matrix[:3, 3], atol=0.1)  # centimetres, of about 40


@needs_litert
def test_the_head_matrix_of_given_points_is_mediapipes(both, pictures, assets_dir):
    """From MediaPipe's own points, so that nothing but the geometry differs."""
    with zipfile.ZipFile(assets_dir / "face_landmarker.task") as bundle:
        geometry = HeadGeometry(bundle.read("geometry_pipeline_metadata_landmarks.binarypb"))
    for (theirs, _), picture in zip(both, pictures, strict=True):
        height, width = picture.shape[:2]
        ours = geometry.matrix(theirs.landmarks / (width, height, width), width, height)
        np.testing.assert_allclose(ours, theirs.matrix, atol=2e-3)


@needs_litert
def test_several_faces_and_a_large_picture(pictures):
    """Two portraits side by side, larger than what is searched in one look."""
    side = 1100
    two = np.concatenate([np.asarray(Image.fromarray(p).resize((side, side))) for p in pictures[:2]], axis=1)
    theirs, ours = Landmarker()(two), LiteRTLandmarker()(two)
    assert len(theirs) == len(ours) == 2
    for a, b in zip(theirs, ours, strict=True):
        assert np.linalg.norm((a.landmarks - b.landmarks)[:, :2], axis=1).max() < 2  # of 2200


@needs_litert
def test_nothing_where_there_is_no_face():
    landmarker = LiteRTLandmarker()
    noise = np.random.default_rng(0).integers(0, 256, (97, 311, 3), np.uint8)
    assert [landmarker(p) for p in (noise, np.zeros((200, 100, 3), np.uint8), noise[:9, :9])] == [[], [], []]


def test_overlapping_finds_are_averaged_by_score():
    finds = np.zeros((3, 16))
    finds[:, :4] = [(0.3, 0.3, 0.2, 0.2), (0.32, 0.3, 0.2, 0.2), (0.8, 0.8, 0.1, 0.1)]
    first, second = merged(finds, np.array([0.9, 0.6, 0.7]))
    assert first[0] == pytest.approx((0.3 * 0.9 + 0.32 * 0.6) / 1.5)
    assert second[0] == pytest.approx(0.8)


def no_mediapipe(monkeypatch, error: Exception) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(landmarker_module, "Landmarker", fail)


def test_mediapipe_runs_where_it_starts(caplog):
    caplog.set_level(logging.INFO, "svdp")
    open_landmarker().close()
    assert choose_runner().name == f"faces found by MediaPipe {importlib.metadata.version('mediapipe')}"
    assert [r.getMessage() for r in caplog.records] == [choose_runner().name]


@needs_litert
@pytest.mark.parametrize("error", [
    OSError("libEGL.so.1: cannot open shared object file: No such file or directory"),
    ModuleNotFoundError("No module named 'mediapipe.tasks'"),
    TypeError("Descriptors cannot be created directly."),
])  # fmt: skip
def test_litert_runs_where_mediapipe_does_not_start(error, monkeypatch, caplog, portrait):
    no_mediapipe(monkeypatch, error)
    with FaceFinder("image") as finder:
        assert len(finder.detect(portrait)) == 1
    assert len(caplog.records) == 1
    assert f"as MediaPipe finds them, since: {error}" in caplog.text


@needs_litert
def test_litert_runs_where_mediapipe_would_report_usage(monkeypatch, caplog):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.10.35" if name == "mediapipe" else real(name))
    assert isinstance(open_landmarker(), LiteRTLandmarker)
    assert "mediapipe 0.10.35 sends usage reports" in caplog.text


def test_with_neither_the_error_says_what_to_install(monkeypatch):
    no_mediapipe(monkeypatch, OSError("libEGL.so.1: cannot open shared object file"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(UserError, match=r"libEGL\.so\.1.*LiteRT.*pip install ai-edge-litert"):
        open_landmarker()


def test_a_broken_opencv_is_explained(monkeypatch):
    """What is left when one of two packages in one folder was uninstalled: an import that works, and nothing in it."""
    monkeypatch.setitem(sys.modules, "cv2", ModuleType("cv2"))
    monkeypatch.delitem(sys.modules, "svdp.signals.opencv")
    there = {"opencv-python": "4.11", "opencv-contrib-python": "4.12"}

    def version(name: str) -> str:
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(UserError, match=r"cv2 lacks resize.*-python and opencv-contrib-python write into one") as e:
        import_module("svdp.signals.opencv")
    assert str(e.value).endswith(
        "pip uninstall -y opencv-python opencv-contrib-python, then pip install --no-cache-dir opencv-contrib-python"
    )


def test_an_opencv_without_libgl_is_explained(monkeypatch):
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "cv2":
                raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "cv2")
    monkeypatch.delitem(sys.modules, "svdp.signals.opencv")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(UserError, match=r"does not start \(libGL.*pip install --no-cache-dir opencv.*-headless$"):
        import_module("svdp.signals.opencv")
