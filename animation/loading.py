"""The model and the portrait's head, made while the driver is followed; the video is as if one came after the other."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ..signals.track import FaceTrack
from .config import AnimateConfig
from .driver import Source, cut_source, own_size

if TYPE_CHECKING:
    from ..heads.pose import PosedPortrait
    from .pipeline import LoadedModel, Model


class ModelInLoading:
    """A model that is read in a thread of its own, PyTorch and diffusers first. Use as a context manager.

    `loaded`: a model that is in memory already, and takes only the run's settings.
    """

    def __init__(self, cfg: AnimateConfig, loaded: LoadedModel | None) -> None:
        self._cfg = cfg
        self._pool = ThreadPoolExecutor(1)
        self._model: Future[Model] = self._pool.submit(_load, cfg, loaded)
        self._head: Future[tuple[Source, PosedPortrait | None, list[str]]] | None = None

    def begin(self, picture: np.ndarray, face: FaceTrack) -> None:
        """Cut the portrait as the model wants it, and fit its head if the model takes a posed source."""
        self._head = self._pool.submit(self._fit, picture, face)

    @property
    def waiting(self) -> bool:
        """Whether `model` would wait."""
        return not self._model.done()

    def check(self) -> None:
        """Raise its error as soon as it is known."""
        for made in (self._model, self._head):
            if made is not None and made.done():
                made.result()

    def model(self) -> Model:
        """The model. Raises UserError if a file is missing or damaged, or if the settings do not fit it."""
        return self._model.result()

    def head(self) -> tuple[Source, PosedPortrait | None]:
        """The portrait and its head, after `begin`, with a warning of all that is doubtful. Raises NoFaceError."""
        assert self._head is not None
        source, head, doubts = self._head.result()
        if doubts:
            from ..heads.doubts import warn

            warn(doubts)
        return source, head

    def __enter__(self) -> ModelInLoading:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _fit(self, picture: np.ndarray, face: FaceTrack) -> tuple[Source, PosedPortrait | None, list[str]]:
        from ..heads.doubts import look_for_doubts
        from ..heads.pose import PosedPortrait
        from ..heads.threads import single_thread

        model, cfg = self._model.result(), self._cfg
        source = cut_source(picture, face, model.crop)
        if not model.adapter.posed:
            return source, None, []
        fine = cfg.paste_back and cfg.detail > 0
        size = max(own_size(source), model.crop.size) if fine else model.crop.size
        with single_thread():
            head = PosedPortrait(picture, face, size, model.crop.scale)
            return source, head, look_for_doubts(picture, face, head.subject.place.fit)


def _load(cfg: AnimateConfig, loaded: LoadedModel | None) -> Model:
    from .pipeline import load_model, settled  # seconds: brings torch and diffusers

    return load_model(cfg) if loaded is None else settled(loaded, cfg)
