"""Processes that fit heads and render samples for the posed model."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from .posed import Face, Kind, PosedSample, World, fit_face_twice, make_sample

log = logging.getLogger(__name__)

T = TypeVar("T")
_WORLD: World | None = None  # of a render process


def process_context(*preload: str) -> BaseContext:
    """How processes are started: forked from a server that has imported the modules `preload` once.

    Forking this process itself would hang, as PyTorch has threads here. On Windows each process imports them anew.
    Each process computes with one thread, unless OMP_NUM_THREADS says otherwise.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # too late for the libraries of this process, as it should be
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def _enter(world: World) -> None:
    """What a render process does first: one thread, and the world."""
    global _WORLD
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _WORLD = world


def _map(function: Callable[[World, Any], T], world: World, tasks: Sequence[Any], workers: int) -> list[T]:
    """`function(world, task)` of all tasks, in processes if there are several workers."""
    if workers == 1:
        return [function(world, task) for task in tasks]
    with process_context(__name__).Pool(min(workers, len(tasks)), _enter, (world,)) as pool:
        return pool.starmap(_call, [(function, task) for task in tasks], chunksize=1)


def _call(function: Callable[[World, Any], T], task: Any) -> T:
    assert _WORLD is not None
    return function(_WORLD, task)


def fit_world(world: World, workers: int) -> World:
    """The world with fitted faces, those that fit badly left out."""
    fitted = _map(_fit, replace(world, faces=[], clips=[]), world.faces, workers)
    good = [face for face in fitted if face is not None]
    log.info("%d of %d faces fit", len(good), len(world.faces))
    return replace(world, faces=good)


def _fit(world: World, face: Face) -> Face | None:
    return fit_face_twice(face, world)


def draw_heldout(world: World, photos: int, workers: int) -> list[PosedSample]:
    """Samples of people that training does not see: photos, and a sixth as many rendered and real clips each."""
    few = max(2, photos // 6)
    counts = {"rendered": few, "photo": photos, "clip": few if world.clips else 0}
    return _map(_draw, world, [(900 + n, kind) for kind, count in counts.items() for n in range(count)], workers)


def _draw(world: World, task: tuple[int, Kind]) -> PosedSample:
    return make_sample(np.random.default_rng(task[0]), world, task[1])


class Renderers:
    """Processes that render samples into `waiting` without end; `close` ends them, as does leaving the context."""

    def __init__(self, world: World, workers: int, seed: int) -> None:
        context: Any = process_context(__name__)
        self.waiting: queue.Queue[PosedSample] = queue.Queue(maxsize=4096)
        self._arriving = context.Queue(maxsize=4 * workers)
        self._processes = [
            context.Process(target=_render, args=(self._arriving, world, seed * 1000 + n), daemon=True)
            for n in range(workers)
        ]
        for process in self._processes:
            process.start()
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        while True:
            self.waiting.put(self._arriving.get())

    @property
    def alive(self) -> bool:
        """Whether any process still runs."""
        return any(process.is_alive() for process in self._processes)

    def __enter__(self) -> Renderers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()


def _render(out: Any, world: World, seed: int) -> None:
    _enter(world)
    if hasattr(os, "nice"):
        os.nice(3)
    rng = np.random.default_rng(seed)
    while True:
        try:
            out.put(make_sample(rng, world))
        except (ValueError, FloatingPointError, np.linalg.LinAlgError) as error:
            log.warning("a sample was left out: %s", error)
