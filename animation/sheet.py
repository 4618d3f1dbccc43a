"""The contact sheet: source, driver, masked signal and result of a few frames in one PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..signals.images import save_image
from ..signals.preview import contact_sheet, pick_frames

COLUMNS = 8
CELL = 160  # pixels
ROWS = ("driver", "masked signal", "result")


class SheetCollector:
    """Keeps pictures (R, R, 3) uint8 of a few evenly spread frames while a run goes on."""

    def __init__(self, source: np.ndarray, num_frames: int) -> None:
        self.source = source
        self.frames = pick_frames(num_frames, COLUMNS)
        self._pictures: dict[str, dict[int, np.ndarray]] = {row: {} for row in ROWS}

    def add(self, row: str, frame: int, picture: np.ndarray) -> None:
        """Keep a picture of a row of `ROWS` if its frame is one of the few."""
        if frame in self.frames:
            self._pictures[row][frame] = picture.copy()

    def save(self, path: Path, note: str) -> None:
        """Write the sheet; every chosen frame must have been added to every row. Raises MediaError."""
        numbers = ", ".join(map(str, self.frames))
        rows = [[self.source] * len(self.frames), *([self._pictures[r][f] for f in self.frames] for r in ROWS)]
        labels = [f"source   ({note})", f"driver   (frames {numbers})", *ROWS[1:]]
        save_image(path, contact_sheet(rows, labels, cell=CELL))
