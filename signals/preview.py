"""Pictures for looking at: landmarks and regions drawn on frames, and contact sheets."""

from collections.abc import Sequence

import numpy as np

from .crops import face_frame
from .opencv import cv2
from .regions import RegionConfig, region_hulls

ALL_REGIONS = RegionConfig()
COLOURS = {"eyes": (70, 200, 255), "nose": (120, 255, 120), "mouth": (255, 110, 140)}
INTERPOLATED = (255, 60, 60)
BACKGROUND, TEXT = 24, (230, 230, 230)
LABEL_HEIGHT = 22  # pixels


def draw_track(
    frame: np.ndarray, landmarks: np.ndarray, regions: RegionConfig | None = ALL_REGIONS, present: bool = True
) -> np.ndarray:
    """A copy of an (H, W, 3) uint8 frame with (478, 3) landmarks as dots and the regions' outlines.

    A red frame around the face marks landmarks that are interpolated (`present` False).
    """
    drawn = frame.copy()
    thickness = max(round(float(face_frame(landmarks[None])[1][0]) / 150), 1)
    for name, hulls in (region_hulls(landmarks, regions) if regions else {}).items():
        points = [np.round(hull - 0.5).astype(np.int32) for hull in hulls]
        cv2.polylines(drawn, points, True, COLOURS[name], thickness, cv2.LINE_AA)
    for x, y in np.round(landmarks[:, :2] - 0.5).astype(int).tolist():
        cv2.circle(drawn, (x, y), thickness // 2, (255, 255, 255), -1)
    if not present:
        low, high = landmarks[:, :2].min(0).astype(int).tolist(), landmarks[:, :2].max(0).astype(int).tolist()
        cv2.rectangle(drawn, low, high, INTERPOLATED, 2 * thickness)
    return drawn


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]], labels: Sequence[str], cell: int | None = None, gap: int = 4
) -> np.ndarray:
    """One (H, W, 3) uint8 picture: each row of (h, w, 3) or (h, w) uint8 pictures below its label.

    Pictures are scaled to `cell` pixels of height (default: the tallest's own height). Raises ValueError for no picture
    at all or a number of labels that is not the number of rows.
    """
    if len(rows) != len(labels):
        raise ValueError(f"{len(rows)} rows of pictures but {len(labels)} labels")
    pictures = [picture for row in rows for picture in row]
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    height = cell or max(picture.shape[0] for picture in pictures)
    strips = [_strip([scaled(picture, height) for picture in row], height, gap) for row in rows]
    width = max(*(strip.shape[1] for strip in strips), *(_text_width(label) + 2 * gap for label in labels))
    parts = [part for strip, label in zip(strips, labels, strict=True) for part in (_label(label, width, gap), strip)]
    return np.concatenate([_widened(part, width) for part in parts])


def pick_frames(num_frames: int, count: int) -> list[int]:
    """At most `count` frame numbers spread evenly over a clip, first and last included."""
    return sorted({round(t) for t in np.linspace(0, num_frames - 1, min(count, num_frames))})


def scaled(picture: np.ndarray, height: int) -> np.ndarray:
    """A picture (h, w, 3) or (h, w) uint8 as (height, W, 3); one of that height comes back as it is."""
    colour = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    factor = height / colour.shape[0]
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    width = max(round(colour.shape[1] * factor), 1)
    return colour if factor == 1 else cv2.resize(colour, (width, height), interpolation=method)


def _strip(pictures: list[np.ndarray], height: int, gap: int) -> np.ndarray:
    spacer = np.full((height, gap, 3), BACKGROUND, np.uint8)
    return np.concatenate([spacer, *(part for picture in pictures for part in (picture, spacer))], axis=1)


def _label(text: str, width: int, gap: int) -> np.ndarray:
    bar = np.full((LABEL_HEIGHT, width, 3), BACKGROUND, np.uint8)
    return cv2.putText(bar, text, (gap, LABEL_HEIGHT - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, TEXT, 1, cv2.LINE_AA)


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0]


def _widened(part: np.ndarray, width: int) -> np.ndarray:
    return np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=BACKGROUND)
