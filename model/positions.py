"""Positional crops: noise, source and driver lie side by side in one large virtual picture."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..errors import UserError

Place = Literal["centre", "left", "right"]
_SHIFT = {"centre": 0, "left": -1, "right": 1}


def crop_positions(
    table_PPD: Tensor, height: int, width: int, place: Place = "centre", shift: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """Crop (1, height * width, D) of the base's positional table (P, P, D); sizes in patches.

    The central crop is the base's own (noise, history); "left" (source) and "right" (driver) are shifted by one
    picture width, so that the three never overlap (paper, conditioning; design decision 2). `shift` (down, right) of
    less than a patch: places between those of the table, as their weighted mean.
    Raises `UserError` with both numbers if the table is too small.
    """
    size = table_PPD.shape[0]
    if height > size or 3 * width > size:
        raise UserError(
            f"picture of {width} x {height} patches needs a positional table at least {3 * width} patches wide and "
            f"{height} high, but the base model's has {size}: use a smaller resolution"
        )
    top = (size - height) // 2
    left = (size - width) // 2 + _SHIFT[place] * width
    left = min(max(left, 0), size - width)  # an odd remainder may push the side crops half a patch over the border
    if shift == (0.0, 0.0):
        return table_PPD[top : top + height, left : left + width].reshape(1, height * width, -1)
    rows, columns = (range(start, start + count + 1) for start, count in ((top, height), (left, width)))
    last = size - 1
    wide = table_PPD[[min(i, last) for i in rows]][:, [min(i, last) for i in columns]]
    tall = wide[:-1] + shift[0] * (wide[1:] - wide[:-1])
    return (tall[:, :-1] + shift[1] * (tall[:, 1:] - tall[:, :-1])).reshape(1, height * width, -1)
