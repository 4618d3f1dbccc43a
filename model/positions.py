"""Positional crops: noise, source and driver lie side by side in one large virtual picture."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..errors import UserError

Place = Literal["centre", "left", "right"]
_SHIFT = {"centre": 0, "left": -1, "right": 1}


def crop_positions(table_PPD: Tensor, height: int, width: int, place: Place = "centre") -> Tensor:
    """Crop (1, height * width, D) of the base's positional table (P, P, D); sizes in patches.

    The central crop is the base's own (noise, history); "left" (source) and "right" (driver) are shifted by one
    picture width, so that the three never overlap (paper, conditioning).
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
    return table_PPD[top : top + height, left : left + width].reshape(1, height * width, -1)
