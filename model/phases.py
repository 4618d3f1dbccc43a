"""The source at several shifts of less than a latent.

An autoencoder's latents do not move along with the picture: those of a picture moved by half a latent are not to be had
from the old ones by weighting neighbours (a portrait at 128 pixels, TAESD3: an error of .14, of a variance of 1). What
has to be learnt then is not where to look but how to encode anew. So the source may be encoded at shifts of a half or a
quarter of a latent along both axes, once for the whole video; its tokens lie as much denser in the virtual picture, and
whatever place is looked for, one of them is near.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from ..errors import UserError
from .autoencoder import FACTOR

Pictures = TypeVar("Pictures")

DENSITIES = (1, 2, 4)  # shifts along each axis


def phase_shifts(density: int) -> list[tuple[float, float]]:
    """Shifts (down, right) of the phases in latents, the unshifted one first."""
    return [(y / density, x / density) for y in range(density) for x in range(density)]


def shifted_pictures(picture_1HWC: Pictures, density: int) -> list[Pictures]:
    """The picture (1, H, W, C), array or tensor, as each phase sees it: moved up and left, its border repeated."""
    height, width = picture_1HWC.shape[1:3]  # type: ignore[attr-defined]
    moved = []
    for down, right in phase_shifts(density):
        rows = [min(i + round(down * FACTOR), height - 1) for i in range(height)]
        columns = [min(i + round(right * FACTOR), width - 1) for i in range(width)]
        moved.append(picture_1HWC[:, rows][:, :, columns])  # type: ignore[index]
    return moved


def stack_phases(latents_PCHW: Tensor) -> Tensor:
    """Latents of the phases of one picture as one tensor (P * C, H, W), the unshifted one first."""
    return latents_PCHW.flatten(0, 1)


def take_phases(source_BCHW: Tensor, channels: int, density: int) -> Tensor:
    """The phases that an adapter of this density wants, (B, P, C, H, W), of a source that may have more.

    Raises `UserError` if it has too few.
    """
    found, wanted = source_BCHW.shape[1] // channels, density**2
    if found < wanted:
        raise UserError(
            f"the adapter wants the source encoded at {wanted} shifts, but it is encoded at {found}: encode it with "
            "Encode Signals, or build the shards with source_density in their configuration"
        )
    phases = source_BCHW.unflatten(1, (-1, channels))
    return phases[:, _picked(phases.shape[1], density)]


def _picked(count: int, density: int) -> list[int]:
    """Which of `count` phases are those of a lower density."""
    held = phase_shifts(round(count**0.5))
    return [held.index(shift) for shift in phase_shifts(density)]
