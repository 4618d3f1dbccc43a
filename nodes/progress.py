"""Progress over several stages, a contact sheet that grows, and work done ahead in a thread."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils
import numpy as np

from ..signals.preview import contact_sheet, pick_frames

Stages = tuple[tuple[str, int], ...]
T = TypeVar("T")

COLUMNS, CELL = 8, 160  # of the contact sheet, pixels
THREAD = "svdp-ahead"
WAIT = 0.2  # seconds after which a thread that waits looks whether it is still wanted


class StageBar:
    """One progress bar over all stages; every step is also the moment at which Cancel takes effect."""

    def __init__(self, stages: Stages) -> None:
        self._bar, self._shares = comfy.utils.ProgressBar(100), dict(stages)
        before = np.cumsum([0, *self._shares.values()]).tolist()
        self._before = dict(zip(self._shares, before, strict=False))

    def show(self, stage: str, share: float, preview: Any = None) -> None:
        """This share of the stage is done."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        done = self._before[stage] + self._shares[stage] * min(share, 1.0)
        self._bar.update_absolute(round(done), 100, preview)

    def stage(self, name: str, total: int) -> Any:
        """A function to call with the number of frames done since the last call."""
        state = [0]

        def step(count: int = 1) -> None:
            state[0] += count
            self.show(name, state[0] / max(total, 1))

        return step


class Sheet:
    """Keeps a few evenly spread pictures of every row."""

    def __init__(self, source: np.ndarray, num_frames: int) -> None:
        self._frames = pick_frames(num_frames, COLUMNS)
        self._rows: dict[str, list[np.ndarray]] = {"source": [source] * len(self._frames)}

    def add(self, row: str, first: int, pictures: np.ndarray) -> None:
        """Pictures (n, h, w, 3) of consecutive frames from `first` on."""
        chosen = [pictures[f - first].copy() for f in self._frames if first <= f < first + len(pictures)]
        self._rows.setdefault(row, []).extend(chosen)

    def copy(self) -> Sheet:
        """One to which rows are added without changing this one."""
        other = Sheet.__new__(Sheet)
        other._frames, other._rows = self._frames, {row: list(cells) for row, cells in self._rows.items()}
        return other

    def picture(self) -> np.ndarray:
        """The rows below each other, (H, W, 3) uint8."""
        return contact_sheet(list(self._rows.values()), list(self._rows), cell=CELL)


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items in order, the next one made in a thread while this one is used.

    A pressed Cancel is raised at once, while an item is waited for too: the thread ends when its item is done.
    """
    worker = _Worker(items)
    cancelled = False
    try:
        while True:
            kind, value = worker.take()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    except comfy.model_management.InterruptProcessingException:
        cancelled = True
        raise
    finally:
        worker.stop(wait=not cancelled)


def cancellable(make: Callable[[], T]) -> T:
    """What `make` gives, made in a thread, so that a pressed Cancel is raised at once."""
    return next(ahead(make() for _ in range(1)))


class _Worker:
    """A thread that makes items, at most one more than are taken."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items, self._stop = items, threading.Event()
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)
        self._thread.start()

    def take(self) -> tuple[str, Any]:
        """("item", it), ("error", what went wrong) or ("end", None). Raises ComfyUI's interrupt."""
        while True:
            comfy.model_management.throw_exception_if_processing_interrupted()
            try:
                return self._ready.get(timeout=WAIT)
            except queue.Empty:
                continue

    def stop(self, wait: bool) -> None:
        """Make no more; `wait` until the item at work is done."""
        self._stop.set()
        if wait:
            self._thread.join()

    def _put(self, kind: str, value: Any) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put((kind, value), timeout=WAIT)
                return
            except queue.Full:
                continue

    def _work(self) -> None:
        try:
            for item in self._items:
                self._put("item", item)
                if self._stop.is_set():
                    return
            self._put("end", None)
        except BaseException as error:  # noqa: BLE001  (raised again where the item is waited for)
            self._put("error", error)
