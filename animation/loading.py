"""The model, read while the driver is followed; the video is the same as if one came after the other."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from .config import AnimateConfig

if TYPE_CHECKING:
    from .pipeline import LoadedModel, Model


class ModelInLoading:
    """A model that is read in a thread of its own, PyTorch and diffusers first. Use as a context manager.

    `loaded`: a model that is in memory already, and takes only the run's settings.
    """

    def __init__(self, cfg: AnimateConfig, loaded: LoadedModel | None) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._ready: Future[Model] = self._pool.submit(_load, cfg, loaded)

    @property
    def waiting(self) -> bool:
        """Whether `result` would wait."""
        return not self._ready.done()

    def check(self) -> None:
        """Raise its error as soon as it is known."""
        if not self.waiting:
            self._ready.result()

    def result(self) -> Model:
        """The model. Raises UserError if a file is missing or damaged, or if the settings do not fit it."""
        return self._ready.result()

    def __enter__(self) -> ModelInLoading:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _load(cfg: AnimateConfig, loaded: LoadedModel | None) -> Model:
    from .pipeline import load_model, settled  # seconds: brings torch and diffusers

    return load_model(cfg) if loaded is None else settled(loaded, cfg)
