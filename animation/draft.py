"""The draft's head, made while the driver is followed; the video is the same as if one came after the other."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING

from .driver import Source

if TYPE_CHECKING:
    from ..heads.pose import PosedPortrait


class PortraitInMaking:
    """The portrait's posable head, made in a thread of its own. Use as a context manager.

    PyTorch is loaded there, too, from the start on: it takes as long as the rest.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._ready = self._pool.submit(import_module, "..heads.pose", __package__)
        self._made: Future[tuple[PosedPortrait, list[str]]] | None = None

    def begin(self, source: Source) -> None:
        """Make the head of this portrait."""
        self._made = self._pool.submit(self._make, source)

    def check(self) -> None:
        """Raise its error as soon as it is known, NoFaceError for a profile."""
        if self._made is not None and self._made.done():
            self._made.result()

    def result(self) -> PosedPortrait:
        """The head, once it is made, with a warning of all that is doubtful about it. Raises NoFaceError."""
        assert self._made is not None
        from ..heads.doubts import warn

        head, doubts = self._made.result()
        warn(doubts)
        return head

    def __enter__(self) -> PortraitInMaking:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    @staticmethod
    def _make(source: Source) -> tuple[PosedPortrait, list[str]]:
        from ..heads.doubts import look_for_doubts
        from ..heads.pose import PosedPortrait
        from ..heads.threads import single_thread

        with single_thread():
            head = PosedPortrait(source.picture, source.track, source.rule.size, source.rule.scale)
            return head, look_for_doubts(source.picture, source.track, head.subject.place.fit)
