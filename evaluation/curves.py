"""Driver and result over time as one picture, drawn without a plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .redetection import MEASURES

PANEL, MARGIN, HEAD = (560, 130), 10, 22  # pixels
PAPER, INK, GRID = (250, 250, 248), (60, 60, 60), (225, 225, 222)
LINES = {"driver": (40, 110, 190), "result": (214, 96, 30)}


def draw_curves(series: Mapping[str, Sequence[float]], measures: Sequence[str] | None = None) -> np.ndarray:
    """(H, W, 3) uint8: a panel for each measure, with the driver's and the result's values frame by frame.

    `series`: as in the details of a run of `protocol`, "driver yaw" and "result yaw" for example; nan leaves a gap.
    """
    names = [m.name for m in MEASURES if measures is None or m.name in measures]
    units = {m.name: m.unit for m in MEASURES}
    width, height = PANEL[0] + 2 * MARGIN, (PANEL[1] + HEAD + MARGIN) * len(names) + MARGIN
    picture = Image.new("RGB", (width, height), PAPER)
    for number, name in enumerate(names):
        top = MARGIN + number * (PANEL[1] + HEAD + MARGIN)
        curves = {who: np.asarray(series.get(f"{who} {name}", []), np.float64) for who in LINES}
        _draw_panel(ImageDraw.Draw(picture), top, f"{name.replace('_', ' ')} ({units[name]})", curves)
    return np.asarray(picture)


def _draw_panel(draw: ImageDraw.ImageDraw, top: int, title: str, curves: Mapping[str, np.ndarray]) -> None:
    font = ImageFont.load_default(13)
    draw.text((MARGIN, top + 2), title, fill=INK, font=font)
    for number, (who, colour) in enumerate(LINES.items()):
        draw.text((PANEL[0] - 110 + 60 * number, top + 2), who, fill=colour, font=font)
    values = np.concatenate([c[np.isfinite(c)] for c in curves.values()])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    high = max(high, low + 1e-3)
    frame = (MARGIN, top + HEAD, MARGIN + PANEL[0], top + HEAD + PANEL[1])
    draw.rectangle(frame, fill=(255, 255, 255), outline=GRID)
    for share, label in ((0.0, high), (1.0, low)):
        draw.text((frame[0] + 4, frame[1] + share * (PANEL[1] - 16)), f"{label:.3g}", fill=INK, font=font)
    count = max(len(c) for c in curves.values())
    for who, curve in curves.items():
        x = frame[0] + PANEL[0] * np.arange(len(curve)) / max(count - 1, 1)
        y = frame[3] - 6 - (PANEL[1] - 12) * (curve - low) / (high - low)
        for run in _runs(np.isfinite(curve)):
            points = list(zip(x[run].tolist(), y[run].tolist(), strict=True))
            draw.line(points if len(points) > 1 else points * 2, fill=LINES[who], width=2)


def _runs(known: np.ndarray) -> list[slice]:
    """Stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(int), [0]])))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
