"""Z-buffer, normals and filled colours of a mesh, vectorised in PyTorch: on any device, without numba.

Functions of arrays choose the compiled loops of loops.py where numba is installed; functions of tensors do so on a CPU.
Coordinates are those of loops.py.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import loops
from .loops import BEHIND, EYE, MOUTH, SKIN
from .shading import shade

__all__ = ["EYE", "MOUTH", "SKIN", "fill_colours", "rasterise", "shade", "vertex_normals", "z_buffer"]

EMPTY = torch.iinfo(torch.int64).min  # key of a pixel that no triangle covers
LAST = 0x7FFFFFFF


def rasterise(
    points: np.ndarray, triangles: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z-buffer. points (V, 3) float32, triangles (F, 3) int32 -> triangle index (H, W) int32 (-1: empty),
    barycentric weights of corners 1 and 2 (H, W, 2), depth (H, W)."""
    if loops.COMPILED:
        return loops.rasterise(points, triangles, height, width)
    found = z_buffer(torch.from_numpy(points), torch.from_numpy(triangles), height, width)
    index, weights, depth = (tensor.numpy() for tensor in found)
    return index, weights, depth


def vertex_normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3), area weighted; z towards the viewer for front faces of screen points."""
    if loops.COMPILED:
        return loops.vertex_normals(points, triangles)
    return normals_of(torch.from_numpy(np.ascontiguousarray(points)), torch.from_numpy(triangles)).numpy()


def fill_colours(colours: np.ndarray, weights: np.ndarray, edges: np.ndarray, rounds: int) -> np.ndarray:
    """Spread trusted vertex colours over the mesh: (V, 3) colours with trust (V,) in 0..1, edges (E, 2).

    Each round every vertex becomes weight * its own colour + (1 - weight) * mean of its neighbours.
    """
    if loops.COMPILED:
        return loops.fill_colours(colours, weights, edges, rounds)
    count, ends = len(colours), torch.from_numpy(edges).long()
    here, there = torch.cat([ends, ends.flip(1)]).T.contiguous()
    degree = torch.bincount(here, minlength=count)[:, None]
    known, own = torch.from_numpy(colours), torch.from_numpy(weights)[:, None]
    own = torch.where(degree > 0, own, 1.0)
    current = known
    for _ in range(rounds):
        total = torch.zeros_like(known).index_add_(0, here, current.index_select(0, there))
        current = own * known + (1 - own) * total / degree.clamp(min=1)
    return current.numpy()


def z_buffer(points: Tensor, triangles: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """`rasterise` for tensors; nothing but triangles that face the viewer is looked at.

    Triangles are cut into rows and rows into pixels; the nearest triangle of a pixel is the greatest of its keys, which
    hold the depth in their upper half. Neighbours compute their common edge alike, so no pixel between them is missed.
    """
    if loops.COMPILED and points.device.type == "cpu":
        found = loops.rasterise(points.numpy(), triangles.numpy(), height, width)
        index, weights, depth = (torch.from_numpy(array) for array in found)
        return index, weights, depth
    x, y, z = corners_of(points, triangles)
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    right, bottom = torch.maximum(torch.maximum(x[0], x[1]), x[2]), torch.maximum(torch.maximum(y[0], y[1]), y[2])
    left, top = torch.minimum(torch.minimum(x[0], x[1]), x[2]), torch.minimum(torch.minimum(y[0], y[1]), y[2])
    top, bottom = torch.ceil(top - 0.5).clamp_(0, height), torch.ceil(bottom - 0.5).clamp_(0, height)
    left, right = torch.ceil(left - 0.5).clamp_(0, width), torch.ceil(right - 0.5).clamp_(0, width)
    number = ((area < -loops.LEAST_AREA) & (bottom > top) & (right > left)).nonzero()[:, 0]
    x, y, z = (column.index_select(1, number) for column in (x, y, z))
    triangle, step = expand((bottom - top).index_select(0, number).long())
    row = top.index_select(0, number).index_select(0, triangle) + step
    left, right = _span(x, y, triangle, row + 0.5, width)
    keep = (right > left).nonzero()[:, 0]
    triangle, row, left, right = (part.index_select(0, keep) for part in (triangle, row, left, right))
    ux, uy, uz, vx, vy, vz = x[1] - x[0], y[1] - y[0], z[1] - z[0], x[2] - x[0], y[2] - y[0], z[2] - z[0]
    area = ux * vy - vx * uy
    plane = torch.stack([x[0], y[0], z[0], (uz * vy - vz * uy) / area, (vz * ux - uz * vx) / area])
    x0, y0, z0, across, down = plane.index_select(1, triangle)
    begin = z0 + (left + 0.5 - x0) * across + (row + 0.5 - y0) * down
    span, step = expand((right - left).long())
    rows = torch.stack([begin, across]).index_select(1, span)
    key = (_sortable(torch.addcmul(rows[0], step, rows[1])) << 32) | (LAST - number[triangle]).index_select(0, span)
    pixel = (row * width + left).long().index_select(0, span) + step
    best = torch.full((height * width,), EMPTY, dtype=torch.int64, device=points.device)
    best.scatter_reduce_(0, pixel, key, "amax")
    return _resolve(best, points, triangles, height, width)


def corners_of(points: Tensor, triangles: Tensor) -> Tensor:
    """(coordinates, corners, triangles): points (V, C) of triangles (F, 3)."""
    return points.T.contiguous().index_select(1, triangles.T.reshape(-1)).reshape(points.shape[1], 3, len(triangles))


def _resolve(best: Tensor, points: Tensor, triangles: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Triangle index, weights and depth of each pixel from its best key (H * W,)."""
    pixel = (best > EMPTY).nonzero()[:, 0]
    chosen = LAST - (best.index_select(0, pixel) & LAST)
    x, y, z = corners_of(points, triangles.index_select(0, chosen))
    ux, uy, vx, vy = x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]
    x, y = pixel % width + 0.5 - x[0], torch.div(pixel, width, rounding_mode="floor") + 0.5 - y[0]
    area = ux * vy - vx * uy
    w1 = ((x * vy - vx * y) / area).clamp(0, 1)
    w2 = torch.minimum(((ux * y - x * uy) / area).clamp(0, 1), 1 - w1)
    index = torch.full((height * width,), -1, dtype=torch.int32, device=best.device)
    weights = torch.zeros(height * width, 2, device=best.device)
    depth = torch.full((height * width,), float(BEHIND), device=best.device)
    index[pixel], weights[pixel] = chosen.int(), torch.stack([w1, w2], 1)
    depth[pixel] = z[0] + w1 * (z[1] - z[0]) + w2 * (z[2] - z[0])
    return index.reshape(height, width), weights.reshape(height, width, 2), depth.reshape(height, width)


def _span(x: Tensor, y: Tensor, triangle: Tensor, centre: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """First column, and the one after the last, of pixels in rows through triangles; x, y (3, F), the others (R,)."""
    left, right = torch.full_like(centre, torch.inf), torch.full_like(centre, -torch.inf)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        swap = y[a] > y[b]  # from top to bottom, whichever triangle the edge is looked at from
        x0, x1 = torch.where(swap, x[b], x[a]), torch.where(swap, x[a], x[b])
        y0, y1 = torch.minimum(y[a], y[b]), torch.maximum(y[a], y[b])
        edge = torch.stack([x0, y0, y1, (x1 - x0) / (y1 - y0).clamp(min=1e-9)])
        x0, y0, y1, slope = edge.index_select(1, triangle)
        crosses = (y0 <= centre) & (centre < y1)
        at = torch.addcmul(x0, centre - y0, slope)
        left = torch.where(crosses, torch.minimum(left, at), left)
        right = torch.where(crosses, torch.maximum(right, at), right)
    return torch.ceil(left - 0.5).clamp_(0, width), torch.ceil(right - 0.5).clamp_(0, width)


def expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat item n counts[n] times: the items' numbers, and each one's place among its equals."""
    counts = counts.clamp(min=0)
    item = torch.repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return item, torch.arange(len(item), device=counts.device) - start[item]


def _sortable(values: Tensor) -> Tensor:
    """float32 -> int64 of 32 bits in the same order."""
    bits = values.contiguous().view(torch.int32)
    return (bits ^ ((bits >> 31) & LAST)).long()


def normals_of(points: Tensor, triangles: Tensor) -> Tensor:
    """`vertex_normals` for tensors."""
    if loops.COMPILED and points.device.type == "cpu":
        return torch.from_numpy(loops.vertex_normals(points.numpy(), triangles.numpy()))
    x, y, z = corners_of(points, triangles)
    ux, uy, uz, vx, vy, vz = x[1] - x[0], y[1] - y[0], z[1] - z[0], x[2] - x[0], y[2] - y[0], z[2] - z[0]
    normals = points.new_zeros(3, len(points))
    corner = triangles.T.reshape(-1).long()
    for axis, part in enumerate((uz * vy - uy * vz, ux * vz - uz * vx, uy * vx - ux * vy)):
        normals[axis].index_add_(0, corner, part.repeat(3))
    x, y, z = normals
    return (normals / ((x * x + y * y + z * z).sqrt() + 1e-12)).T.contiguous()
