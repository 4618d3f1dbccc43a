"""Colours of a rasterised head in PyTorch, on any device: what the loop `loops.shade` says, a pixel a column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import loops
from .loops import EYE, SKIN


@dataclass(frozen=True)
class Look:
    """What the vertices of a head look like; fields are as in `loops.shade`."""

    photo: Tensor  # (h, w, 3)
    photo_xy: Tensor  # (V, 2)
    trust: Tensor  # (V,)
    colours: Tensor  # (V, 3)
    light: Tensor  # (V,)
    alpha: Tensor  # (V,)
    eye: Tensor  # (V, 4)
    palette: Tensor  # (3, 3)


def shade(
    index: np.ndarray, weights: np.ndarray, triangles: np.ndarray, shading: np.ndarray, *look: np.ndarray
) -> np.ndarray:
    """The first four channels of `loops.shade`, compiled or not; `look` are the fields of Look, in order."""
    if loops.COMPILED:
        return loops.shade(index, weights, triangles, shading, *look)[..., :4]
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in (index, weights, triangles, shading, *look)]
    at, shares, corners, kinds, *rest = tensors
    return colour(at, shares, corners, kinds, Look(*rest))[..., :4].numpy()


def colour(index: Tensor, weights: Tensor, triangles: Tensor, shading: Tensor, look: Look) -> Tensor:
    """`loops.shade` for tensors: (H, W, 5) float32."""
    if loops.COMPILED and index.device.type == "cpu":
        arrays = [tensor.numpy() for tensor in (index, weights, triangles, shading, *_fields(look))]
        return torch.from_numpy(loops.shade(*arrays))
    covered = (index.reshape(-1) >= 0).nonzero()[:, 0]
    triangle = index.reshape(-1).index_select(0, covered)
    corners = triangles.index_select(0, triangle).T.contiguous()
    w1, w2 = weights.reshape(-1, 2).index_select(0, covered).T
    shares = torch.stack([1 - w1 - w2, w1, w2])
    values = torch.cat([torch.stack([look.trust, look.light, look.alpha]), look.photo_xy.T, look.colours.T])
    trust, light, alpha, x, y, *painted = _interpolate(values, corners, shares)
    kind = shading.index_select(0, triangle)
    skin = kind == SKIN
    painted = torch.stack(painted)
    eye = (kind == EYE).nonzero()[:, 0]
    looks = _interpolate(look.eye.T, corners[:, eye], shares[:, eye])
    painted[:, eye] = _eye_colours(looks, look.palette)
    seen = sample(look.photo, torch.stack([x, y], 1))
    value = _lighten(painted + trust * (seen - painted), torch.where(skin, light, 1.0))
    result = torch.stack([*value, torch.where(skin, alpha, 1.0), trust], 1)
    out = torch.zeros(index.numel(), 5, device=index.device)
    return out.index_copy_(0, covered, result).reshape(*index.shape, 5)


def sample(picture: Tensor, places: Tensor) -> Tensor:
    """(C, ...): a picture (h, w, C) at places (..., 2), x and y in pixels; bilinear, its edge repeated."""
    height, width, channels = picture.shape
    size = torch.tensor([width, height], device=places.device)
    grid = (2 * places / size - 1).reshape(1, 1, -1, 2)
    found = F.grid_sample(picture.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False)
    return found.reshape(channels, *places.shape[:-1])


def _fields(look: Look) -> tuple[Tensor, ...]:
    return tuple(getattr(look, name) for name in Look.__dataclass_fields__)


def _interpolate(values: Tensor, corners: Tensor, shares: Tensor) -> Tensor:
    """(C, n): vertices' values (C, V) at pixels with corners (3, n) and barycentric shares (3, n)."""
    rows = values.T.contiguous()
    a, b, c = (rows.index_select(0, corner) for corner in corners)
    return (a * shares[0, :, None]).addcmul_(b, shares[1, :, None]).addcmul_(c, shares[2, :, None]).T.contiguous()


def _ramp(low: float, high: float, value: Tensor) -> Tensor:
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _eye_colours(eye: Tensor, palette: Tensor) -> Tensor:
    """(3, n) colours of eyes; eye (4, n) as in `loops.shade`."""
    dx, dy, dz, angle = eye
    sclera, iris, pupil = palette[:, :, None]
    painted = sclera + (0.55 * iris - sclera) * _ramp(0.43, 0.37, angle) + 0.45 * iris * _ramp(0.38, 0.30, angle)
    painted = painted + (pupil - painted) * _ramp(0.18, 0.13, angle)
    painted = painted * (1 - 0.45 * _ramp(0.0, 0.45, -dy) - 0.12 * _ramp(0.2, 0.7, dx.abs()))
    glint = (dx + 0.16) ** 2 + (dy + 0.20) ** 2
    return painted + (235 - painted) * 0.8 * _ramp(0.012, 0.004, glint) * (dz > 0)


def _lighten(value: Tensor, factor: Tensor) -> Tensor:
    """value * factor, but what is bright already is brightened less, so that nothing burns white."""
    room = torch.where(factor > 1, 1 - (value / 255).clamp(0, 1), 1.0)
    return value * (1 + (factor - 1) * room)
