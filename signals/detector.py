"""MediaPipe's FaceLandmarker behind a small protocol: the only module that knows MediaPipe, and imports it lazily."""

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from ..errors import UserError
from .opencv import cv2

NUM_LANDMARKS = 478
MODEL_PATH = Path(__file__).resolve().parents[1] / "assets" / "face_landmarker.task"
FIRST_REPORTING_VERSION = (0, 10, 35)  # seen resolving a Google host while detecting; 0.10.30 to 0.10.33 were not
MAX_SIDE = 1600  # larger pictures are searched on a smaller copy; the face itself is then read at full resolution
MIN_SIDE = 16  # below this there is nothing to see

# fmt: off
BLENDSHAPES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)
# fmt: on


@dataclass(frozen=True)
class Detection:
    """One face in one picture."""

    landmarks: np.ndarray  # (478, 3) float32 pixels
    blendshapes: np.ndarray  # (52,) float32
    matrix: np.ndarray  # (4, 4) float32 head matrix

    @property
    def box(self) -> np.ndarray:
        """(4,) left, top, right, bottom in pixels."""
        return np.concatenate([self.landmarks[:, :2].min(0), self.landmarks[:, :2].max(0)])

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        left, top, right, bottom = self.box
        return float((right - left) * (bottom - top))

    def stretched(self, factors: np.ndarray) -> "Detection":
        """The same face in the picture that is (2,) times as wide and high; its depth goes with the width."""
        return replace(self, landmarks=self.landmarks * np.array([*factors, factors[0]], np.float32))

    def moved(self, left: float, top: float) -> "Detection":
        """The same face in the picture that its own was cut out of, at (left, top)."""
        return replace(self, landmarks=self.landmarks + np.array([left, top, 0], np.float32))


class FaceDetector(Protocol):
    """What `track_faces` needs of a detector. Used as a context manager."""

    def detect(self, frame: np.ndarray, timestamp_ms: int) -> list[Detection]:
        """All faces of an (H, W, 3) uint8 RGB frame; timestamps rise from call to call."""
        ...

    def __enter__(self) -> "FaceDetector": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two xyxy boxes."""
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = max(float(width), 0.0) * max(float(height), 0.0)
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - common
    return common / union if union > 0 else 0.0


def without_doubles(faces: list[Detection], limit: float = 0.4) -> list[Detection]:
    """Largest first, dropping faces that overlap one already kept."""
    kept: list[Detection] = []
    for face in sorted(faces, key=lambda f: -f.area):
        if all(overlap(face.box, other.box) < limit for other in kept):
            kept.append(face)
    return kept


def check_mediapipe_version() -> None:
    """Raise UserError when MediaPipe is absent or of a version that sends usage reports."""
    remedy = 'install one that does not: pip install "mediapipe>=0.10.30,<0.10.35"'
    try:
        version = importlib.metadata.version("mediapipe")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"it is not installed; {remedy}") from None
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers >= FIRST_REPORTING_VERSION:
        raise UserError(f"mediapipe {version} sends usage reports to Google while it detects faces; {remedy}")


def _load_mediapipe() -> tuple[Any, Any, Any]:
    check_mediapipe_version()
    os.environ.setdefault("GLOG_minloglevel", "2")  # else every start prints a page of C++ notes
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    return mediapipe, BaseOptions, vision


def searched(image: np.ndarray) -> np.ndarray | None:
    """The picture, or a copy small enough to be searched in one look; None if it is too small to show a face."""
    height, width = image.shape[:2]
    shrink = max(1.0, max(height, width) / MAX_SIDE)
    size = (round(width / shrink), round(height / shrink))
    if min(size) < MIN_SIDE:
        return None
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if shrink > 1 else image


@contextmanager
def native_log_dropped() -> Iterator[None]:
    """The nets' C++ side prints notes on each start, past Python's stderr and before its log levels apply."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class Landmarker:
    """One FaceLandmarker: pictures in, detections in the pictures' own pixels out. Close it when done."""

    def __init__(self, num_faces: int = 4, confidence: float = 0.5, model_path: Path = MODEL_PATH):
        """Raises UserError when MediaPipe is absent or too new."""
        self._mediapipe, base_options, vision = _load_mediapipe()
        options = vision.FaceLandmarkerOptions(
            base_options=base_options(model_asset_buffer=model_path.read_bytes()),
            running_mode=vision.RunningMode.IMAGE,
            num_faces=num_faces,
            min_face_detection_confidence=confidence,
            min_face_presence_confidence=confidence,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        with native_log_dropped():
            self._landmarker = vision.FaceLandmarker.create_from_options(options)

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """All faces of an (H, W, 3) uint8 RGB picture that are large enough in it, largest first."""
        height, width = image.shape[:2]
        small = searched(image)
        if small is None:
            return []
        handed = self._mediapipe.Image(
            image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(small, np.uint8)
        )
        return without_doubles(list(_detections(self._landmarker.detect(handed), width, height)))

    def close(self) -> None:
        """Free the model."""
        self._landmarker.close()


def _detections(result: Any, width: int, height: int) -> Iterator[Detection]:
    faces = zip(result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes, strict=True)
    for points, shapes, matrix in faces:
        landmarks = np.array([(p.x, p.y, p.z) for p in points], np.float32)
        landmarks *= np.array([width, height, width], np.float32)  # MediaPipe gives z on the scale of x
        yield Detection(landmarks, np.array([s.score for s in shapes], np.float32), np.asarray(matrix, np.float32))
