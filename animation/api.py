"""The Python API: `svdp.load_model` and `svdp.animate`. It prints nothing and may be called from several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Cancelled, UserError
from .config import IN_MEMORY, MOTION_FILES, NO_FILES, AnimateConfig, find_weights
from .media import Media
from .moves import check_moves
from .output import OutputFile, settling
from .stages import Animation, Display, Stop

if TYPE_CHECKING:
    from .pipeline import LoadedModel

_PLACES = ("source", "driving", "output", "weights")
_OF_THE_MODEL = ("strength", "device", "dtype")


@dataclass(frozen=True)
class Progress:
    """How far a run is: the stage's name, what is done of it, of how much (None: not known), counted in what."""

    stage: str
    done: int
    total: int | None
    unit: str


@dataclass(frozen=True)
class Result:
    """What a run made: a video file and its contact sheet, or frames (F, H, W, 3) uint8 RGB."""

    num_frames: int
    fps: float
    seconds: float  # that it took
    video: Path | None = None
    sheet: Path | None = None
    frames: np.ndarray | None = None


def load_model(
    weights: Path | str | None = None,
    *,
    base: Path | str | None = None,
    adapter: Path | str | None = None,
    autoencoder: Path | str | None = None,
    strength: float = 1.0,
    device: str = "auto",
    dtype: str = "auto",
) -> LoadedModel:
    """Read a model once, for any number of `animate` calls; by default the bundled one.

    Args:
        weights: folder with `*base`, `*adapter` and `*autoencoder.safetensors`; base, adapter, autoencoder: or singly.
        strength: of the adapter; 0 is the bare base.
        device: "auto", "cpu", "cuda", ...; dtype: "auto", "float32", "bfloat16" or "float16".

    Raises UserError if a file is missing or not what it should be, or the device is not to be had.
    """
    from .pipeline import load_weights

    single = (None if p is None else Path(p) for p in (base, adapter, autoencoder))
    found = find_weights(None if weights is None else Path(weights), *single)
    checked = AnimateConfig(
        source=IN_MEMORY, driving=IN_MEMORY, output=IN_MEMORY, weights=found,
        strength=strength, device=device, dtype=dtype,
    )  # fmt: skip
    return load_weights(found, checked.device, checked.dtype, checked.strength)


def animate(
    source: Path | str | np.ndarray,
    driving: Path | str | np.ndarray | Sequence[np.ndarray],
    output: Path | str | None = None,
    *,
    model: LoadedModel | None = None,
    fps: float = 25.0,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    **settings: Any,
) -> Result:
    """Animate a portrait with a driving clip.

    Args:
        source: a picture file, or (H, W, 3) uint8 RGB.
        driving: a video file, or frames (F, H, W, 3) uint8 RGB shown at `fps`.
        output: the video to write (.mp4), with the driver's sound; None gives `Result.frames` instead.
        model: from `load_model`; by default the bundled one is read for this call alone. A draft needs none.
        on_progress: called in this thread as the work goes on; what it raises ends the run.
        cancel: set it from another thread, and the run ends between two steps with `Cancelled`.
        settings: as the options of `svdp animate`, such as `steps=2`, `draft=True`, `overwrite=True`.

    Raises `UserError` (`NoFaceError`, `MediaError`, `AdapterMismatchError`) that names the thing and the remedy.
    """
    known = {f.name for f in fields(AnimateConfig)} - {*_PLACES, *_OF_THE_MODEL}
    unknown = sorted(set(settings) - known)
    if unknown:
        hint = "; it belongs to load_model" if set(unknown) & {*_OF_THE_MODEL, "weights"} else ""
        raise UserError(f"animate has no setting {', '.join(unknown)}{hint}; known: {', '.join(sorted(known))}")
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
    plain |= {name: Path(plain[name]) for name in MOTION_FILES if plain.get(name) is not None}
    cfg = AnimateConfig(
        source=IN_MEMORY if isinstance(source, np.ndarray) else Path(source),
        driving=Path(driving) if isinstance(driving, str | Path) else IN_MEMORY,
        output=IN_MEMORY if output is None else Path(output),
        weights=NO_FILES if model is not None or plain.get("draft") else find_weights(None),
        **plain,
    )
    media = Media(
        source=source if isinstance(source, np.ndarray) else None,
        driving=None if isinstance(driving, str | Path) else driving,
        fps=fps,
    )
    target = None if output is None else output_of(cfg, media, model)
    return run(cfg, target, Told(on_progress), CancelRequest(cancel), media=media, loaded=model)


def output_of(cfg: AnimateConfig, media: Media, loaded: LoadedModel | None = None) -> OutputFile:
    """The file that a run writes, checked against its inputs. Raises UserError or MediaError."""
    weights = cfg.weights if loaded is None else loaded.weights
    media_files = ((cfg.source, media.source), (cfg.driving, media.driving))
    return OutputFile(
        cfg.output,
        overwrite=cfg.overwrite,
        resume=cfg.resume,
        sheet=cfg.contact_sheet,
        inputs=(
            *(path for path, array in media_files if array is None),
            *(path for path in (cfg.motion_file,) if path is not None),
            *(path for path in (weights.base, weights.adapter, weights.autoencoder) if path != IN_MEMORY),
        ),
    )


def run(
    cfg: AnimateConfig,
    output: OutputFile | None,
    display: Display,
    stop: Stop,
    *,
    media: Media | None = None,
    loaded: LoadedModel | None = None,
) -> Result:
    """One run from settings to result; command line, API and lists of jobs all come here.

    Raises `UserError` or `Cancelled`, with nothing under the output's name then; both say what is left.
    """
    began = time.monotonic()
    animation = Animation(cfg, output, display, stop, media=media, loaded=loaded)
    with settling(output):
        check_moves(cfg)
        count = animation.run()
    timing, seconds = animation.timing, time.monotonic() - began
    assert timing is not None
    if output is None:
        return Result(count, float(timing.fps), seconds, frames=np.stack(animation.kept.frames))
    sheet = output.sheet if output.sheet is not None and output.sheet.exists() else None
    return Result(count, float(timing.fps), seconds, video=cfg.output, sheet=sheet)


class Told:
    """A display that tells a function, or nobody."""

    def __init__(self, tell: Callable[[Progress], None] | None) -> None:
        self._tell = tell

    def stage(self, name: str, total: int | None = None, unit: str = "") -> _ToldStage:
        """A stage begins."""
        stage = _ToldStage(self._tell, name, total, unit)
        stage.advance(0)
        return stage

    def say(self, text: str) -> None:
        """What is only for reading is left out."""


class _ToldStage:
    def __init__(self, tell: Callable[[Progress], None] | None, name: str, total: int | None, unit: str) -> None:
        self._tell, self._name, self._total, self._unit, self._done = tell, name, total, unit, 0

    def advance(self, units: int = 1) -> None:
        self._done += units
        if self._tell is not None:
            self._tell(Progress(self._name, self._done, self._total, self._unit))

    def done(self) -> None:
        self._total = self._done
        self.advance(0)


class CancelRequest:
    """Raises `Cancelled` at the next safe point after an event was set."""

    def __init__(self, event: threading.Event | None) -> None:
        self._event = event

    def check(self) -> None:
        """Raise `Cancelled` if the event is set."""
        if self._event is not None and self._event.is_set():
            raise Cancelled("cancelled")
