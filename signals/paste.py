"""Put an animated crop back into the full picture."""

import numpy as np

from .crops import resample

RING = 0.12  # width of the crop's edge strip, as a share of its side, over which colours are compared
GAIN_LIMITS = (0.8, 1.25)  # contrast is matched within these


def paste_back(
    full: np.ndarray,
    crop: np.ndarray,
    affine: np.ndarray,
    feather: float = 0.1,
    colour_match: bool = True,
    keep: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Undo a crop: `crop` (size, size, 3) uint8 goes where `affine` (2, 3) took it from in `full` (H, W, 3) uint8.

    The crop may have been enlarged or made smaller meanwhile: `scaled_affine`. feather: width of the soft edge as a
    share of the crop's side, 0 for a hard one. colour_match: the crop's edge strip
    is given the mean and contrast of the picture below it, channel by channel. keep: (size, size) uint8, 255 where the
    crop is to be seen at all. Returns a new picture and the mask used,
    (H, W) uint8 with 255 where only the crop is seen.
    """
    return Paster(full, affine, crop.shape[0], feather, colour_match)(crop, keep)


class Paster:
    """`paste_back` for many crops of one size and place: what they share is worked out once.

    Args:
        full, affine, feather, colour_match: as in `paste_back`; size: side of the crops in pixels.
    """

    def __init__(
        self, full: np.ndarray, affine: np.ndarray, size: int, feather: float = 0.1, colour_match: bool = True
    ) -> None:
        if not 0 <= feather <= 0.5:
            raise ValueError(f"feather must be from 0 to 0.5 of the crop's side, got {feather}")
        self.full, self.affine, self.size = full, affine, size
        self.rows, self.columns = _covered(affine, size, full.shape[:2])
        below = full[self.rows, self.columns]
        self.below = below.astype(np.float32)
        inside = _edge_distance(affine, size, self.rows, self.columns) if below.size else np.zeros(below.shape[:2])
        self.ramp = _ramp(inside, feather)
        self.inverse = _inverse(affine, self.columns.start, self.rows.start)
        ring = np.flatnonzero((inside > 0) & (inside < RING)) if colour_match else np.zeros(0, int)
        self.ring: np.ndarray = ring
        want = self.below.reshape(-1, 3)[ring]
        self.wanted = (want.mean(0), want.std(0)) if len(ring) else None

    def __call__(self, crop: np.ndarray, keep: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The picture with a crop in it, and the mask used; as `paste_back` returns them."""
        result, mask = self.full.copy(), np.zeros(self.full.shape[:2], np.uint8)
        if self.below.size == 0:  # the crop lies outside of the picture
            return result, mask
        size_hw = self.below.shape[:2]
        pasted = resample(crop, self.inverse, size_hw).astype(np.float32)
        if self.wanted is not None:
            pasted = self._match_colours(pasted, *self.wanted)
        shown = self.ramp if keep is None else self.ramp * (resample(keep, self.inverse, size_hw) / np.float32(255))
        mask[self.rows, self.columns] = np.round(255 * shown)
        alpha = mask[self.rows, self.columns, None] / np.float32(255)
        np.clip(pasted, 0, 255, out=pasted)
        pasted -= self.below
        pasted *= alpha
        pasted += self.below
        result[self.rows, self.columns] = np.rint(pasted, out=pasted)
        return result, mask

    def _match_colours(self, pasted: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
        have = pasted.reshape(-1, 3)[self.ring]
        gain = np.clip((spread + 1) / (have.std(0) + 1), *GAIN_LIMITS)
        return (pasted - have.mean(0)) * gain + mean


def scaled_affine(affine: np.ndarray, size: int, planned: int) -> np.ndarray:
    """The affine (2, 3) of a crop that was cut at `planned` pixels and now has `size`, an upscaled one for example."""
    return affine * np.float32(size / planned)


def _covered(affine: np.ndarray, size: int, size_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the picture that the crop touches."""
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]])
    inverse = _inverse(affine)
    placed = corners @ inverse[:, :2].T + inverse[:, 2]
    low = np.floor(placed.min(0)).astype(int).clip(0)
    high = np.ceil(placed.max(0)).astype(int).clip(0, size_hw[::-1])
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _inverse(affine: np.ndarray, left: float = 0, top: float = 0) -> np.ndarray:
    """(2, 3) crop coordinates -> coordinates in the part of the picture that begins at (left, top)."""
    linear = np.linalg.inv(affine[:, :2].astype(np.float64))
    return np.column_stack([linear, -linear @ affine[:, 2] - (left, top)])


def _edge_distance(affine: np.ndarray, size: int, rows: slice, columns: slice) -> np.ndarray:
    """(h, w) distance of each pixel from the crop's nearest edge in units of its side; negative outside."""
    x = np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5
    u, v = (a * x + b * y + c for a, b, c in affine.astype(np.float32))
    return np.minimum(np.minimum(u, size - u), np.minimum(v, size - v)) / size


def _ramp(inside: np.ndarray, feather: float) -> np.ndarray:
    """Opacity from 0 at the crop's edge to 1 at `feather` from it, smooth at both ends."""
    if feather == 0:
        return (inside >= 0).astype(np.float32)
    share = np.clip(inside / feather, 0, 1)
    return share * share * (3 - 2 * share)
