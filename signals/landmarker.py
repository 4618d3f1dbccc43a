"""Which program runs the FaceLandmarker file: MediaPipe where it starts, else LiteRT. Decided once a process."""

import importlib.metadata
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import UserError
from .detector import MODEL_PATH, Detection, Landmarker
from .litert import LiteRTLandmarker

log = logging.getLogger(__name__)

LITERT = "ai-edge-litert"
# MediaPipe fails to start in many ways: libEGL or another library, protobuf, NumPy or a module of the wrong version
FAILURES = (ImportError, OSError, RuntimeError, TypeError, ValueError, AttributeError)


class FaceLandmarker(Protocol):
    """Pictures in, detections in the pictures' own pixels out. Close it when done."""

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """All faces of an (H, W, 3) uint8 RGB picture that are large enough in it, largest first."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


@dataclass(frozen=True)
class Runner:
    """What runs the file, in words; `start` makes a landmarker."""

    name: str
    start: Callable[..., FaceLandmarker]


def open_landmarker(confidence: float = 0.5, model_path: Path = MODEL_PATH) -> FaceLandmarker:
    """A landmarker of MediaPipe, else of LiteRT. Raises UserError when neither starts, or the file is missing."""
    if not model_path.is_file():
        raise UserError(f"the face model {model_path} is missing; reinstall the package, which brings it")
    return choose_runner().start(confidence=confidence, model_path=model_path)


@lru_cache(maxsize=1)
def choose_runner() -> Runner:
    """The first that starts; says so in the log. Raises UserError with the remedy when none does."""
    try:
        Landmarker().close()
    except FAILURES as error:
        runner = _litert(_told(error))
        log.warning("%s", runner.name)
        return runner
    runner = Runner(f"faces found by MediaPipe {importlib.metadata.version('mediapipe')}", Landmarker)
    log.info("%s", runner.name)
    return runner


def _litert(why: str) -> Runner:
    """LiteRT in MediaPipe's place, which does not start for the reason `why`."""
    try:
        LiteRTLandmarker().close()
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"faces cannot be found. MediaPipe: {why}. LiteRT, which would do the same: {_told(error)}. Remedy: "
            f"pip install {LITERT}"
        ) from error
    version = importlib.metadata.version(LITERT)
    return Runner(f"faces found by LiteRT {version}, as MediaPipe finds them, since: {why}", LiteRTLandmarker)


def _told(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
