"""The same FaceLandmarker file without MediaPipe: its three nets by LiteRT, what lies between them in NumPy.

The steps and numbers are those of MediaPipe's own graph for single pictures: find faces on a small copy, turn each
upright by its eyes, read 478 points from its square, then 52 blendshapes and the head matrix from the points.
"""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .detector import MODEL_PATH, Detection, native_log_dropped, overlap, searched, without_doubles
from .head_matrix import HeadGeometry
from .opencv import cv2

SEARCH_SIDE, POINTS_SIDE = 128, 256  # pixels of the nets' pictures
DOUBLE = 0.5  # overlap from which two boxes are one face
MARGIN = 1.5  # side of the square around a face / side of the box found
CELLS = ((16, 2), (8, 6))  # of the search: cells along a side, boxes in each
RIGHT_EYE, LEFT_EYE = slice(4, 6), slice(6, 8)  # of a find: 4 numbers of its box, then its points
MOST_THREADS = 4

# fmt: off
BLENDSHAPE_POINTS = np.array([
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80,
    81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153,
    154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251,
    263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318,
    321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386,
    387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477,
])
# fmt: on


@dataclass(frozen=True)
class Region:
    """A turned rectangle of a picture: middle, sides in pixels, angle in radians."""

    middle: np.ndarray  # (2,)
    sides: np.ndarray  # (2,) width, height
    angle: float = 0.0

    def affine(self) -> np.ndarray:
        """(2, 3): takes (0..1, 0..1) to the picture's pixels."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        axes = np.array([[cos, -sin], [sin, cos]]) * self.sides
        return np.concatenate([axes, (self.middle - axes.sum(1) / 2)[:, None]], axis=1)

    def cut(self, image: np.ndarray, side: int, border: int) -> np.ndarray:
        """(side, side, 3) uint8, read bilinearly as MediaPipe does."""
        to_picture = self.affine() @ np.diag([1 / side, 1 / side, 1.0])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, to_picture, (side, side), flags=flags, borderMode=border)


class Net:
    """One net of the file."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]

        threads = min(MOST_THREADS, os.cpu_count() or 1)
        self._interpreter: Any = Interpreter(model_content=content, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def __call__(self, values: np.ndarray) -> list[np.ndarray]:
        """The outputs for one input."""
        self._interpreter.set_tensor(self._input, values[None].astype(np.float32))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


class LiteRTLandmarker:
    """One FaceLandmarker: pictures in, detections in the pictures' own pixels out. Close it when done."""

    def __init__(self, num_faces: int = 4, confidence: float = 0.5, model_path: Path = MODEL_PATH) -> None:
        """Raises ImportError when `ai-edge-litert` is not installed."""
        with zipfile.ZipFile(model_path) as bundle, native_log_dropped():
            self._search, self._points, self._blendshapes = (
                Net(bundle.read(f"{name}.tflite"))
                for name in ("face_detector", "face_landmarks_detector", "face_blendshapes")
            )
            self._geometry = HeadGeometry(bundle.read("geometry_pipeline_metadata_landmarks.binarypb"))
        self._num_faces, self._confidence = num_faces, confidence
        self._anchors = anchors()

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """All faces of an (H, W, 3) uint8 RGB picture that are large enough in it, largest first."""
        height, width = image.shape[:2]
        small = searched(image)
        if small is None:
            return []
        shrink = np.array([width, height], np.float64) / small.shape[1::-1]
        read = (self._read(small, region) for region in self._regions(small))
        return without_doubles([face.stretched(shrink) for face in read if face is not None])

    def close(self) -> None:
        """Free the nets."""
        del self._search, self._points, self._blendshapes

    def _regions(self, image: np.ndarray) -> list[Region]:
        """Squares around the faces found, upright by the eyes, the surest first."""
        height, width = image.shape[:2]
        whole = Region(np.array([width, height]) / 2, np.full(2, max(height, width)))
        picture = whole.cut(image, SEARCH_SIDE, cv2.BORDER_CONSTANT)
        found, scores = self._search(picture / 127.5 - 1)
        found = found[0].astype(np.float64) / SEARCH_SIDE
        scores = 1 / (1 + np.exp(-np.clip(scores[0, :, 0].astype(np.float64), -100, 100)))
        sure = scores >= self._confidence
        finds = found[sure]
        finds[:, :2] += self._anchors[sure]
        finds[:, 4:] += np.tile(self._anchors[sure], (1, 6))
        return [_around(find, whole) for find in merged(finds, scores[sure])[: self._num_faces]]

    def _read(self, image: np.ndarray, region: Region) -> Detection | None:
        """The face in a region, or None if the net sees none there."""
        height, width = image.shape[:2]
        crop = region.cut(image, POINTS_SIDE, cv2.BORDER_REPLICATE)
        points, presence = (output.reshape(-1) for output in self._points(crop / 255)[:2])
        if 1 / (1 + np.exp(-float(presence[0]))) < self._confidence:
            return None
        points = points.reshape(-1, 3).astype(np.float64) / POINTS_SIDE
        affine = region.affine()
        flat = points[:, :2] @ affine[:, :2].T + affine[:, 2]
        landmarks = np.concatenate([flat, points[:, 2:] * region.sides[0]], axis=1)
        matrix = self._geometry.matrix(landmarks / (width, height, width), width, height)
        blendshapes = self._blendshapes(flat[BLENDSHAPE_POINTS])[0]
        return Detection(landmarks.astype(np.float32), blendshapes, matrix)


def anchors() -> np.ndarray:
    """(896, 2): x and y of the middles from which the boxes of the search are counted, as shares of its picture."""
    rows = []
    for cells, boxes in CELLS:
        y, x = np.mgrid[:cells, :cells]
        middles = (np.stack([x, y], axis=2).reshape(-1, 2) + 0.5) / cells
        rows.append(np.repeat(middles, boxes, axis=0))
    return np.concatenate(rows)


def merged(finds: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Finds (n, 16: middle and size of a box, six points), overlapping ones averaged by score, the surest first."""
    corners = np.concatenate([finds[:, :2] - finds[:, 2:4] / 2, finds[:, :2] + finds[:, 2:4] / 2], axis=1)
    order = np.argsort(-scores, kind="stable")
    faces = []
    while len(order):
        same = np.array([overlap(corners[i], corners[order[0]]) > DOUBLE for i in order])
        same[0] = True
        faces.append(np.average(finds[order[same]], axis=0, weights=scores[order[same]]))
        order = order[~same]
    return faces


def _around(find: np.ndarray, whole: Region) -> Region:
    """The square, or nearly, of the picture that is read for a find."""
    to_picture = whole.affine()
    middle = to_picture[:, :2] @ find[:2] + to_picture[:, 2]
    across = (find[LEFT_EYE] - find[RIGHT_EYE]) * whole.sides
    return Region(middle, find[2:4] * whole.sides * MARGIN, float(np.arctan2(across[1], across[0])))
