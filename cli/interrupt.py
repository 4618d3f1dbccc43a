"""Ctrl-C and SIGTERM at safe points: between steps and frames, so that a file being written stays whole."""

from __future__ import annotations

import logging
import signal
from types import FrameType, TracebackType
from typing import Any

from ..errors import Cancelled

log = logging.getLogger(__name__)


class Interrupted(Cancelled):
    """The run was asked to stop. `signal_number` says by what; the shell's convention for the exit code is 128 + it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.signal_number


class StopRequest:
    """Turns the first SIGINT or SIGTERM into an `Interrupted` at the next `check`; a second one stops at once.

    A context manager, for the main thread.
    """

    def __init__(self) -> None:
        self._received = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Interrupted` if a stop was asked for."""
        if self._received:
            raise Interrupted(self._received)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            raise Interrupted(number)
        self._received = number
        log.warning("stopping after this step; once more to stop at once")
