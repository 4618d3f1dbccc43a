"""The contact sheet: source, driver, masked signal and result of a few frames in one picture."""

from __future__ import annotations

import numpy as np

from ..signals.preview import contact_sheet, pick_frames, scaled

COLUMNS = 8
CELL = 160  # pixels
ROWS = ("driver", "masked signal", "result")


class SheetCollector:
    """Keeps pictures of a few evenly spread frames, at the sheet's size, while a run goes on.

    source (R, R, 3) uint8; `pictures`: what an earlier run collected, by row and frame.
    """

    def __init__(
        self, source: np.ndarray, num_frames: int, pictures: dict[str, dict[int, np.ndarray]] | None = None
    ) -> None:
        self.source = source
        self.frames = pick_frames(num_frames, COLUMNS)
        self.pictures: dict[str, dict[int, np.ndarray]] = {row: {} for row in ROWS} | (pictures or {})

    def add(self, row: str, frame: int, picture: np.ndarray) -> None:
        """Keep a picture (R, R, 3) of a row of `ROWS` if its frame is one of the few."""
        if frame in self.frames:
            self.pictures[row][frame] = scaled(picture, CELL).copy()

    def render(self, note: str) -> np.ndarray:
        """The sheet (H, W, 3) uint8; every chosen frame must have been added to every row."""
        numbers = ", ".join(map(str, self.frames))
        rows = [[self.source] * len(self.frames), *([self.pictures[r][f] for f in self.frames] for r in ROWS)]
        labels = [f"source   ({note})", f"driver   (frames {numbers})", *ROWS[1:]]
        return contact_sheet(rows, labels, cell=CELL)
