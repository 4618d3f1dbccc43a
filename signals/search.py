"""Finding faces that are too small, or lie too far from the middle, to be seen in the picture as a whole."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from .detector import Detection, overlap, without_doubles

Detect = Callable[[np.ndarray], list[Detection]]

NEIGHBOURHOOD = 2.2  # side of the square looked at around a known face / larger side of its box
MAX_TILES = 400  # of one size: very large pictures are searched less finely, so that it takes seconds
FINE_TILE = 192  # pixels; a tile shows faces from about an eighth of its side on
SAME_FACE = 0.3  # overlap from which two sightings are one face


def detect_at(detect: Detect, image: np.ndarray, box: np.ndarray) -> Detection | None:
    """The face at an xyxy `box`, looked for in a square around it at full resolution."""
    middle = (box[:2] + box[2:]) / 2
    side = NEIGHBOURHOOD * float((box[2:] - box[:2]).max())
    x, y = np.round(middle - side / 2).astype(int).tolist()
    found = _detect_inside(detect, image, x, y, round(side))
    best = max(found, key=lambda face: overlap(face.box, box), default=None)
    return best if best is not None and overlap(best.box, box) >= SAME_FACE else None


def search_tiles(detect: Detect, image: np.ndarray, finest: int = FINE_TILE) -> list[Detection]:
    """Faces found on half overlapping square tiles, large tiles first, down to `finest` pixels or what finds some.

    Every find is confirmed by a second look at its neighbourhood, since many tiles are many chances to err.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    finest = min(side, max(finest, math.ceil(2 * math.sqrt(height * width / MAX_TILES))))
    while side >= finest:
        seen = [
            face for x, y in tile_corners((height, width), side) for face in _detect_inside(detect, image, x, y, side)
        ]
        confirmed = [detect_at(detect, image, face.box) for face in without_doubles(seen)]
        faces = without_doubles([face for face in confirmed if face is not None])
        if faces:
            return faces
        side //= 2
    return []


def tile_corners(size_hw: tuple[int, int], side: int) -> Iterator[tuple[int, int]]:
    """Left and top of square tiles that cover the picture, neighbours sharing about half."""
    height, width = size_hw
    for y in _starts(height, side):
        for x in _starts(width, side):
            yield x, y


def _starts(length: int, side: int) -> list[int]:
    count = max(math.ceil(2 * length / side) - 1, 1)
    return sorted({round(s) for s in np.linspace(0, max(length - side, 0), count)})


def _detect_inside(detect: Detect, image: np.ndarray, x: int, y: int, side: int) -> list[Detection]:
    """Faces in a square cut out of the picture (less where it hangs over the edge), in the picture's pixels."""
    left, top = max(x, 0), max(y, 0)
    return [face.moved(left, top) for face in detect(image[top : max(y + side, 0), left : max(x + side, 0)])]
