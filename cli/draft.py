"""The draft's frames: the portrait's head is made while the driver is followed, and drawn in threads while others wait.

The video that comes out is the same as if all of it were done one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ..heads.pose import PosedPortrait
from ..heads.threads import single_thread
from ..signals.paste import Paster
from .config import AnimateConfig
from .driver import DrivingSignals, Source


class PortraitInMaking:
    """The portrait's posable head, made in a thread of its own. Use as a context manager."""

    def __init__(self, source: Source) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._made: Future[PosedPortrait] = self._pool.submit(self._make, source)

    def check(self) -> None:
        """Raise its error as soon as it is known, NoFaceError for a profile."""
        if self._made.done():
            self._made.result()

    def result(self) -> PosedPortrait:
        """The head, once it is made. Raises NoFaceError."""
        return self._made.result()

    def __enter__(self) -> PortraitInMaking:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    @staticmethod
    def _make(source: Source) -> PosedPortrait:
        with single_thread():
            return PosedPortrait(source.picture, source.track, source.rule.size, source.rule.scale)


def draw_draft(source: Source, signals: DrivingSignals, cfg: AnimateConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frame by frame: what is to be written, the whole picture or the square, and the square (R, R, 3)."""
    paste = Paster(source.picture, source.crop.affines[0], source.rule.size) if cfg.paste_back else None
    for frame in signals.posed():
        yield (frame.picture if paste is None else paste(frame.picture)[0]), frame.picture
