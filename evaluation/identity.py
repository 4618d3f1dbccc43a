"""Is it the same person? Cosine similarity of identity embeddings (CSIM), behind one interface for all embedders.

An embedder is optional: without one, everything else is measured and identity is reported as not measured, with the
remedy. Two are known, both calibrated on 48 portraits and 8 frames each of 26 clips (431 pairs of frames of the same
person, 18,988 of different ones; EER: share of errors where both kinds are equally frequent):

    embedder                                        same, median   different, median   EER     at
    dlib's ResNet, centred (extra "identity")       .89            .03                 2.3 %   .50
    MobileFaceNet (a .tflite file of your own)      .90            .02                 0.2 %   .49

Similarities of the two are not comparable with each other, nor with those that papers give for ArcFace.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import UserError
from ..signals.crops import resample
from ..signals.motion import fit_similarity
from ..signals.track import FaceTrack
from .dlib_centre import DLIB_CENTRE

EXTRA = "pip install 'video-driven-portraits[identity]'"
MOST_FRAMES = 32  # of a reference video, and between the windows of drift: more tell nothing new

# MediaPipe's points for dlib's five (outer and inner corner of the left eye, of the right eye, base of the nose) and
# for ArcFace's five (pupil on the picture's left, on its right, tip of the nose, corners of the mouth likewise), and
# where they belong in the aligned picture, in pixels.
_DLIB_POINTS, _DLIB_SIDE = (263, 362, 33, 133, 2), 150
_DLIB_PLACES = ((110.957, 46.35), (89.606, 47.897), (37.058, 46.373), (58.409, 47.906), (74.011, 87.78))
_ARCFACE_POINTS, _ARCFACE_SIDE = (468, 473, 1, 61, 291), 112
_ARCFACE_PLACES = ((38.295, 51.696), (73.532, 51.501), (56.025, 71.737), (41.549, 92.366), (70.73, 92.204))


class Embedder(Protocol):
    """Makes a unit vector of a face: the same person's are alike."""

    name: str
    same_from: float  # cosine similarity from which two pictures rather show the same person

    def embed(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(D,) float32 unit vector of an (H, W, 3) uint8 picture with (478, 3) landmarks in pixels."""
        ...


class DlibEmbedder:
    """dlib's face recognition ResNet (King 2017, CC0): 128 numbers, less their mean over people."""

    name = "dlib ResNet, centred"
    same_from = 0.50

    def __init__(self) -> None:
        missing = [m for m in ("dlib", "face_recognition_models") if importlib.util.find_spec(m) is None]
        if missing:
            raise UserError(
                f"identity similarity needs {' and '.join(missing)}: {EXTRA}, or give --embedder a .tflite file"
            )
        import dlib  # type: ignore[import-not-found]
        import face_recognition_models  # type: ignore[import-not-found]

        weights = face_recognition_models.face_recognition_model_location()
        self._net: Any = dlib.face_recognition_model_v1(weights)  # type: ignore[attr-defined]
        self._centre = np.array(DLIB_CENTRE)

    def embed(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """As in `Embedder`."""
        face = align_face(picture, landmarks, _DLIB_POINTS, _DLIB_PLACES, _DLIB_SIDE)
        return _unit(np.array(self._net.compute_face_descriptor(face)) - self._centre)


class TFLiteEmbedder:
    """MobileFaceNet (Chen et al. 2018) or another net on ArcFace-aligned pictures, as a .tflite file.

    Raises UserError: no such file, ai-edge-litert is not installed, not a net with one picture in and one vector out.
    """

    same_from = 0.49

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"embedder {path} does not exist: check the path")
        if importlib.util.find_spec("ai_edge_litert") is None:
            raise UserError(f"embedder {path} needs ai-edge-litert: pip install ai-edge-litert")
        from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]

        try:
            self._net: Any = Interpreter(str(path), num_threads=1)
            self._net.allocate_tensors()
            (self._in,), (self._out,) = self._net.get_input_details(), self._net.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"embedder {path} cannot be read as a face embedding net ({error}): get it anew") from error
        shape = [int(n) for n in self._in["shape"]]
        if shape[1:] != [_ARCFACE_SIDE, _ARCFACE_SIDE, 3]:
            raise UserError(f"embedder {path} takes pictures of {shape}: a net for 112x112 RGB pictures is needed")
        self.name = path.stem
        self._batch = shape[0]

    def embed(self, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """As in `Embedder`."""
        face = align_face(picture, landmarks, _ARCFACE_POINTS, _ARCFACE_PLACES, _ARCFACE_SIDE)
        batch = np.repeat(((face.astype(np.float32) - 127.5) / 128)[None], self._batch, axis=0)
        self._net.set_tensor(self._in["index"], batch)
        self._net.invoke()
        return _unit(self._net.get_tensor(self._out["index"])[0])


def find_embedder(choice: str = "auto") -> tuple[Embedder | None, str]:
    """The embedder to use, or None and why there is none (with the remedy).

    choice: "auto" (dlib's if it is installed), "dlib", "none", or the path of a .tflite file. Raises UserError if what
    was asked for by name cannot be had.
    """
    if choice == "none":
        return None, "identity was not asked for"
    if choice not in ("auto", "dlib"):
        if not choice.endswith(".tflite"):
            raise UserError(f"unknown embedder {choice!r}: auto, dlib, none, or a .tflite file")
        return TFLiteEmbedder(Path(choice)), ""
    try:
        return DlibEmbedder(), ""
    except UserError as error:
        if choice == "dlib":
            raise
        return None, str(error)


def align_face(
    picture: np.ndarray,
    landmarks: np.ndarray,
    points: Sequence[int],
    places: Sequence[tuple[float, float]],
    side: int,
) -> np.ndarray:
    """(side, side, 3) uint8: the picture turned, scaled and shifted so that the face's points lie at their places."""
    return resample(picture, fit_similarity(landmarks[list(points), :2], np.array(places)), (side, side))


def embed_video(
    frames: Iterable[np.ndarray], track: FaceTrack, embedder: Embedder, numbers: Iterable[int] | None = None
) -> np.ndarray:
    """(T, D) embeddings of the frames that are asked for and in which the face was detected; nan for all others."""
    wanted = set(range(track.num_frames) if numbers is None else numbers) & set(np.flatnonzero(track.present).tolist())
    found: dict[int, np.ndarray] = {}
    before: tuple[np.ndarray, int] | None = None
    for t, frame in enumerate(frames):
        if t not in wanted:
            continue
        still = before is not None and frame is before[0] and _same_face(track, before[1], t)
        found[t] = found[before[1]] if before is not None and still else embedder.embed(frame, track.landmarks[t])
        before = frame, t
    size = len(next(iter(found.values()))) if found else 1
    vectors = np.full((track.num_frames, size), np.nan, np.float32)
    for t, vector in found.items():
        vectors[t] = vector
    return vectors


def _same_face(track: FaceTrack, a: int, b: int) -> bool:
    return np.array_equal(track.landmarks[a], track.landmarks[b])


def mean_embedding(vectors: np.ndarray) -> np.ndarray | None:
    """(D,) unit vector in the middle of (T, D) embeddings, nan rows left out; None if there is no other."""
    known = vectors[np.isfinite(vectors).all(1)]
    return _unit(known.mean(0)) if len(known) else None


def spread(num_frames: int, most: int = MOST_FRAMES) -> list[int]:
    """At most so many frame numbers, evenly spread."""
    return sorted(set(np.linspace(0, num_frames - 1, min(most, num_frames)).round().astype(int).tolist()))


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
