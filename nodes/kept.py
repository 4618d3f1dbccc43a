"""What a node that does everything keeps from one run to the next, so that a late dial recomputes only what follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..model.backends.comfy_store import digest

T = TypeVar("T")


class Kept:
    """The last product of every stage, under a digest of what it was made from: memory does not grow with runs."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[str, Any]] = {}

    def get(self, stage: str, decides: Any, make: Callable[[], T]) -> T:
        """The stage's product if the same things decide it as the last time, else a new one."""
        key = digest(decides)
        if stage not in self._made or self._made[stage][0] != key:
            self._made.pop(stage, None)  # the old one need not live beside the new one
            self._made[stage] = (key, make())
        return self._made[stage][1]

    def clear(self) -> None:
        """Forget everything."""
        self._made.clear()


KEPT = Kept()
