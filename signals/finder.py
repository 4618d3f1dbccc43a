"""The detector that the package uses: MediaPipe on the whole picture, then wherever else a face may be."""

from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from .detector import MAX_SIDE, MODEL_PATH, Detection, Landmarker, overlap, without_doubles
from .search import SAME_FACE, detect_at, search_tiles

NUM_FACES = 4  # looked for at once
MEMORY_MS = 1000  # a face lost for less than this is looked for where it was
SEARCH_EVERY_MS = 1000  # while a clip shows no face at all, its tiles are searched this often
COARSE_TILE = 360  # pixels; clips are searched less finely than stills
SHARP_FACE = 256  # pixels; faces smaller than this on a shrunk copy are read again at full resolution


class MediaPipeDetector:
    """`video` follows faces from frame to frame, `image` takes each picture by itself and looks more closely."""

    def __init__(
        self, mode: Literal["video", "image"] = "video", *, confidence: float = 0.5, model_path: Path = MODEL_PATH
    ):
        """Raises UserError when MediaPipe is absent, too new, or the model file is missing."""
        self._still = Landmarker("image", NUM_FACES, confidence, model_path)
        self._moving = Landmarker("video", NUM_FACES, confidence, model_path) if mode == "video" else None
        self._remembered: list[tuple[np.ndarray, int]] = []  # box and time of faces seen lately
        self._next_search_ms = 0

    def detect(self, frame: np.ndarray, timestamp_ms: int = 0) -> list[Detection]:
        """All faces of an (H, W, 3) uint8 RGB frame, largest first; timestamps rise from call to call."""
        if self._moving is None:
            faces = self._still(frame) or search_tiles(self._still, frame)
            return [self._sharpened(face, frame) for face in faces]
        faces = self._with_lost_ones(frame, self._moving(frame, timestamp_ms))
        if not faces and timestamp_ms >= self._next_search_ms:
            faces = search_tiles(self._still, frame, COARSE_TILE)
            self._next_search_ms = timestamp_ms + SEARCH_EVERY_MS
        self._remember(faces, timestamp_ms)
        return faces

    def __enter__(self) -> "MediaPipeDetector":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._still.close()
        if self._moving is not None:
            self._moving.close()

    def _with_lost_ones(self, frame: np.ndarray, faces: list[Detection]) -> list[Detection]:
        boxes = [box for box, _ in self._remembered if all(overlap(box, f.box) < SAME_FACE for f in faces)]
        again = [detect_at(self._still, frame, box) for box in boxes]
        return without_doubles(faces + [face for face in again if face is not None])

    def _remember(self, faces: list[Detection], timestamp_ms: int) -> None:
        lost = [
            (box, seen_ms)
            for box, seen_ms in self._remembered
            if timestamp_ms - seen_ms <= MEMORY_MS and all(overlap(box, f.box) < SAME_FACE for f in faces)
        ]
        self._remembered = [(face.box, timestamp_ms) for face in faces] + lost

    def _sharpened(self, face: Detection, image: np.ndarray) -> Detection:
        shrink = max(image.shape[:2]) / MAX_SIDE
        width = float(face.box[2] - face.box[0])
        if shrink <= 1 or width / shrink >= SHARP_FACE:
            return face
        return detect_at(self._still, image, face.box) or face
