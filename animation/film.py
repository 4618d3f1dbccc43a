"""The film of one run while it is made: frames written or kept, contact sheet collected, checkpoints kept."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import MediaError
from ..signals.paste import Paster, scaled_affine
from ..signals.video import Timing, VideoWriter
from .driver import Source
from .kept import Checkpoint
from .media import FrameKeeper
from .output import OutputFile
from .sheet import SheetCollector

log = logging.getLogger(__name__)


class Film:
    """Takes results in order: into memory, or to `output.video`, after what `output.checkpoint` kept.

    settings: what the frames depend on, for the checkpoints. paste: into the whole portrait, or the bare square.
    sound, cut_sound: as for `VideoWriter`. A context manager. Raises MediaError.
    """

    def __init__(
        self,
        output: OutputFile | FrameKeeper,
        source: Source,
        timing: Timing,
        settings: dict[str, str],
        *,
        paste: bool,
        sound: Path | None,
        cut_sound: bool,
    ) -> None:
        self._file = output if isinstance(output, OutputFile) else None
        kept = self._file.checkpoint if self._file else None
        self._source, self._settings, self._paste = source, settings, paste
        self._paster: Paster | None = None
        self._boundaries: list[tuple[int, np.ndarray | None]] = []
        self.sheet = SheetCollector(source.cropped, timing.num_frames, kept.sheet if kept else None)
        size = source.picture.shape[:2] if paste else source.cropped.shape[:2]
        if isinstance(output, FrameKeeper):
            self._writer: VideoWriter | FrameKeeper = output
            return
        output.started = True
        self._writer = VideoWriter(output.video, size, timing, sound=sound, cut_sound=cut_sound, kept=output.kept_video)
        if kept is not None and self._writer.frames_written < kept.start:
            self._writer.close()
            raise MediaError(f"{output.kept_video} is damaged: begin anew with --overwrite")
        if kept is None:
            self.boundary(0)  # says from the first moment what this film is of

    def show(self, number: int, driver: np.ndarray, masked: np.ndarray) -> None:
        """For the contact sheet, what a frame was made from: driving picture and masked signal, (R, R, 3) uint8."""
        self.sheet.add("driver", number, driver)
        self.sheet.add("masked signal", number, masked)

    def add(self, number: int, result: np.ndarray) -> None:
        """A frame of the result (R, R, 3) uint8."""
        self.sheet.add("result", number, result)
        if number >= self._writer.frames_written:  # else it is among those that were kept
            self._writer.write(self._whole(result) if self._paste else result)
            self._keep()

    def boundary(self, frame: int, history: np.ndarray | None = None) -> None:
        """A later run can begin at `frame`, given the latents (H, C, h, w) float32 of the frames before."""
        if self._file is not None:
            self._boundaries.append((frame, history))
            self._keep()

    def _keep(self) -> None:
        """Keep the last boundary before which all frames are on the disk."""
        if self._file is None or isinstance(self._writer, FrameKeeper):
            return
        safe = [b for b in self._boundaries if b[0] <= self._writer.frames_safe]
        if safe:
            self._boundaries = self._boundaries[len(safe) :]
            start, history = safe[-1]
            self._file.save_checkpoint(
                Checkpoint(self._file.video.name, self._settings, start, history, self.sheet.pictures)
            )

    def _whole(self, result: np.ndarray) -> np.ndarray:
        if self._paster is None or self._paster.size != len(result):
            affine = scaled_affine(self._source.crop.affines[0], len(result), self._source.crop.size)
            self._paster = Paster(self._source.picture, affine, len(result))
        return self._paster(result)[0]

    def __enter__(self) -> Film:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, tb)
        if error is not None:
            try:
                self._keep()
            except MediaError as keeping:
                log.info("no checkpoint: %s", keeping)
