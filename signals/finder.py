"""The detector that the package uses: the FaceLandmarker on the whole picture, then wherever else a face may be.

Clips are not given to MediaPipe's own VIDEO mode. For one face it smooths with a lag (measured on known motion: error
2 to 8 % of the eye distance, against 0.3 to 0.4 % frame by frame); for several it searches each whole frame anew, which
is the same as IMAGE mode and off by 4 % where the face fills a tenth of the frame. Looking only at the neighbourhood of
the face of the frame before is more exact (0.4 %) and, on large frames, faster.
"""

from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from .detector import MODEL_PATH, Detection, overlap
from .landmarker import open_landmarker
from .search import SAME_FACE, detect_at, search_tiles

LOOK_EVERY_MS = 500  # the whole frame is searched for newcomers this often, and whenever a known face is not found
MEMORY_MS = 1000  # a face lost for less than this is looked for where it was
SEARCH_EVERY_MS = 1000  # while a clip shows no face at all, its tiles are searched this often
COARSE_TILE = 360  # pixels; clips are searched less finely than stills


class FaceFinder:
    """`video` follows faces from frame to frame, `image` takes each picture by itself and looks more closely."""

    def __init__(
        self, mode: Literal["video", "image"] = "video", *, confidence: float = 0.5, model_path: Path = MODEL_PATH
    ):
        """Raises UserError when neither MediaPipe nor LiteRT starts, or the model file is missing."""
        self._landmarker = open_landmarker(confidence=confidence, model_path=model_path)
        self._follows = mode == "video"
        self._remembered: list[tuple[np.ndarray, int]] = []  # box and time of faces seen lately
        self._next_look_ms = self._next_search_ms = 0

    def detect(self, frame: np.ndarray, timestamp_ms: int = 0) -> list[Detection]:
        """All faces of an (H, W, 3) uint8 RGB frame, largest first; timestamps rise from call to call."""
        faces = self._follow(frame, timestamp_ms) if self._follows else self._look(frame) or self._search(frame)
        return sorted(faces, key=lambda face: -face.area)

    def __enter__(self) -> "FaceFinder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._landmarker.close()

    def _look(self, frame: np.ndarray) -> list[Detection]:
        """Faces of the whole frame, each read again from its neighbourhood."""
        faces: list[Detection] = []
        for seen in self._landmarker(frame):
            _add(faces, detect_at(self._landmarker, frame, seen.box) or seen)
        return faces

    def _search(self, frame: np.ndarray, **finest: int) -> list[Detection]:
        return search_tiles(self._landmarker, frame, **finest)

    def _follow(self, frame: np.ndarray, now_ms: int) -> list[Detection]:
        faces: list[Detection] = []
        for box, _ in self._remembered:
            _add(faces, detect_at(self._landmarker, frame, box))
        if len(faces) < max(len(self._remembered), 1) or now_ms >= self._next_look_ms:
            for newcomer in self._look(frame):
                _add(faces, newcomer)
            self._next_look_ms = now_ms + LOOK_EVERY_MS
        if not faces and now_ms >= self._next_search_ms:
            faces = self._search(frame, finest=COARSE_TILE)
            self._next_search_ms = now_ms + SEARCH_EVERY_MS
        self._remember(faces, now_ms)
        return faces

    def _remember(self, faces: list[Detection], now_ms: int) -> None:
        lost = [
            (box, seen_ms)
            for box, seen_ms in self._remembered
            if now_ms - seen_ms <= MEMORY_MS and all(overlap(box, face.box) < SAME_FACE for face in faces)
        ]
        self._remembered = [(face.box, now_ms) for face in faces] + lost


def _add(faces: list[Detection], face: Detection | None) -> None:
    """Append a face unless it is none, or one that is there already."""
    if face is not None and all(overlap(face.box, other.box) < SAME_FACE for other in faces):
        faces.append(face)
