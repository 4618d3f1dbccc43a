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
    if not 0 <= feather <= 0.5:
        raise ValueError(f"feather must be from 0 to 0.5 of the crop's side, got {feather}")
    result, mask = full.copy(), np.zeros(full.shape[:2], np.uint8)
    rows, columns = _covered(affine, crop.shape[0], full.shape[:2])
    below = full[rows, columns]
    if below.size == 0:  # the crop lies outside of the picture
        return result, mask
    inside = _edge_distance(affine, crop.shape[0], rows, columns)
    pasted = resample(crop, _inverse(affine, columns.start, rows.start), below.shape[:2]).astype(np.float32)
    if colour_match:
        pasted = _match_colours(pasted, below, (inside > 0) & (inside < RING))
    mask[rows, columns] = np.round(255 * _ramp(inside, feather) * _kept(keep, affine, rows, columns))
    alpha = mask[rows, columns, None] / np.float32(255)
    result[rows, columns] = np.round(below + alpha * (np.clip(pasted, 0, 255) - below)).astype(np.uint8)
    return result, mask


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


def _kept(keep: np.ndarray | None, affine: np.ndarray, rows: slice, columns: slice) -> np.ndarray | float:
    """`keep` laid over the covered part of the picture, 0 to 1."""
    if keep is None:
        return 1.0
    size_hw = (rows.stop - rows.start, columns.stop - columns.start)
    return resample(keep, _inverse(affine, columns.start, rows.start), size_hw).astype(np.float32) / 255


def _match_colours(pasted: np.ndarray, below: np.ndarray, ring: np.ndarray) -> np.ndarray:
    if not ring.any():
        return pasted
    have, want = pasted[ring], below[ring].astype(np.float32)
    gain = np.clip((want.std(0) + 1) / (have.std(0) + 1), *GAIN_LIMITS)
    return (pasted - have.mean(0)) * gain + want.mean(0)
