"""Work on parts of a clip in several threads at once, its results in order, no more of them waiting than needed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_WORKERS = 8


def usual_workers() -> int:
    """As many as there are cores that this process may use, within MOST_WORKERS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores))


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None, ahead: int = 1
) -> Iterator[Result]:
    """work(item) for each item, in order, done by `workers` threads (None: `usual_workers`).

    At most workers + ahead items are begun before their result is taken. An error comes where its result would.
    Closing the iterator drops what is not begun and waits for the rest. Each worker's PyTorch has one thread: more of
    them wait for each other without end on a busy machine.
    """
    count = usual_workers() if workers is None else workers
    before = torch.get_num_threads()
    waiting: deque[Future[Result]] = deque()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(work, item))
                    if len(waiting) >= count + ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
    finally:
        torch.set_num_threads(before)


@contextmanager
def single_thread() -> Iterator[None]:
    """PyTorch in this thread works without helpers: for many small pieces of work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
