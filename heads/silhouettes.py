"""Smooth silhouettes: the pixels on both sides of an edge of the head are mixed by how much of them each side covers.

A silhouette is an edge of a triangle that faces the viewer, whose other triangle looks away or is missing. Where it
passes between the centres of two neighbouring pixels, the one that it cuts takes a share of the other's colour (Laine
et al. 2020, section 3.3). So a picture needs no supersampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .loops import BEHIND as NOTHING
from .raster import corners_of, expand

BEHIND = float(NOTHING)

SHARE = 0.2  # of a neighbour's colour, where two parts of the head touch
BEYOND = 0.03  # centimetres by which what lies beyond a silhouette is further away at least
BEFORE = 1.2  # centimetres by which what lies before a silhouette, and hides it, is nearer at least


@dataclass(frozen=True)
class Mesh:
    """Triangles with their neighbours."""

    triangles: Tensor  # (F, 3) int32
    shading: Tensor  # (F,) int32, as in HeadModel.shading
    parts: Tensor  # (F,) int32: numbers of what looks different: skin, lids' edges, eyes, teeth ...
    edges: Tensor  # (E, 2) vertices, each edge once
    sides: Tensor  # (E, 2) triangles at an edge; F where there is no second one
    tips: Tensor  # (E, 2) these triangles' third vertices

    def to(self, device: torch.device) -> Mesh:
        """The mesh on a device."""
        return Mesh(*(getattr(self, name).to(device) for name in Mesh.__dataclass_fields__))


def make_mesh(triangles: np.ndarray, shading: np.ndarray, parts: np.ndarray) -> Mesh:
    """The Mesh of triangles (F, 3), kinds of shading and parts (F,); an edge with over two triangles keeps two."""
    count = len(triangles)
    edges = np.sort(np.concatenate([triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))]), 1)
    tips, owner = triangles[:, [2, 0, 1]].T.reshape(-1), np.tile(np.arange(count), 3)
    unique, first, inverse = np.unique(edges, axis=0, return_index=True, return_inverse=True)
    last = np.zeros(len(unique), np.int64)
    last[inverse.reshape(-1)] = np.arange(len(edges))
    second = np.where(last == first, count, owner[last])
    arrays = unique, np.stack([owner[first], second], 1), np.stack([tips[first], tips[last]], 1)
    kinds = [np.ascontiguousarray(a, np.int32) for a in (triangles, shading, parts)]
    return Mesh(
        *(torch.from_numpy(a) for a in kinds), *(torch.from_numpy(np.asfortranarray(a, np.int64)) for a in arrays)
    )


def smooth(picture: Tensor, alpha: Tensor, depth: Tensor, points: Tensor, mesh: Mesh, unit: float) -> Tensor:
    """The picture (H, W, C) with smooth silhouettes.

    Args:
        alpha: (H, W) opacity of the mesh in the picture.
        depth: (H, W) from `raster.z_buffer`, of the mesh at points (V, 3); unit: pixels per centimetre.
    """
    height, width, channels = picture.shape
    start, end, tip = _silhouettes(points, mesh)
    steep = (end - start)[:, 1].abs() >= (end - start)[:, 0].abs()
    rows = _crossings(start[steep], end[steep], tip[steep], (width, height))
    x_y = [part[~steep][:, [1, 0, 2]] for part in (start, end, tip)]
    columns = _crossings(x_y[0], x_y[1], x_y[2], (height, width))
    inner = torch.cat([rows[0][1] * width + rows[0][0], columns[0][0] * width + columns[0][1]])
    outer = torch.cat([rows[1][1] * width + rows[1][0], columns[1][0] * width + columns[1][1]])
    reach, z = torch.cat([rows[2], columns[2]]), torch.cat([rows[3], columns[3]])
    depth = depth.reshape(-1)
    keep = (depth[outer] < z - BEYOND * unit) & (depth[inner] < z + BEFORE * unit) & (depth[inner] > BEHIND)
    inner, outer, reach = inner[keep], outer[keep], reach[keep]
    grows = reach > 0.5
    to, source = torch.where(grows, outer, inner), torch.where(grows, inner, outer)
    share = (reach - 0.5).abs() * alpha.reshape(-1)[inner]
    flat = picture.reshape(-1, channels)
    total = torch.zeros_like(flat[:, 0]).index_add_(0, to, share)
    change = torch.zeros_like(flat).index_add_(0, to, share[:, None] * (flat[source] - flat[to]))
    return (flat + change / total.clamp(min=1)[:, None]).reshape(picture.shape)


def soften(picture: Tensor, index: Tensor, mesh: Mesh) -> Tensor:
    """The picture (H, W, C) with soft borders between parts, which touch without a silhouette.

    A pixel takes SHARE of each neighbour of another part, less the more it is known (last channel): a photo is soft.

    Args:
        index: (H, W) from `raster.z_buffer`.
    """
    height, width, channels = picture.shape
    part = mesh.parts.index_select(0, index.reshape(-1).clamp(min=0))
    part = torch.where(index.reshape(-1) < 0, 0, part).reshape(height, width)
    right = (part[:, 1:] != part[:, :-1]).nonzero()
    down = (part[1:] != part[:-1]).nonzero()
    first = torch.cat([right[:, 0] * width + right[:, 1], down[:, 0] * width + down[:, 1]])
    second = first + torch.cat([torch.ones_like(right[:, 0]), torch.full_like(down[:, 0], width)])
    flat = picture.reshape(-1, channels)
    a, b = flat[first], flat[second]
    step = SHARE * (b - a)
    change = torch.zeros_like(flat)
    change.index_add_(0, first, step * (1 - a[:, -1:]).clamp(0, 1))
    change.index_add_(0, second, -step * (1 - b[:, -1:]).clamp(0, 1))
    return (flat + change).reshape(picture.shape)


def _silhouettes(points: Tensor, mesh: Mesh) -> tuple[Tensor, Tensor, Tensor]:
    """(S, 3) each: ends of the silhouettes, and the third corner of the triangle that is seen."""
    x, y = corners_of(points[:, :2], mesh.triangles)
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    front = torch.cat([area < 0, area.new_zeros(1, dtype=torch.bool)])
    first, second = (front.index_select(0, side) for side in mesh.sides.T)
    chosen = (first != second).nonzero()[:, 0]
    tips = mesh.tips[chosen]
    tip = torch.where(first[chosen], tips[:, 0], tips[:, 1])
    return points[mesh.edges[chosen, 0]], points[mesh.edges[chosen, 1]], points[tip]


def _crossings(start: Tensor, end: Tensor, tip: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where edges pass between horizontal neighbours of a picture of `size` (width, height).

    Returns:
        inner and outer pixel (2, n) each: column and row; how far the edge is from the inner one's centre (n,), in
        0..1; depth (n,) of the edge there.
    """
    width, height = size
    swap = (start[:, 1] > end[:, 1])[:, None]
    start, end = torch.where(swap, end, start), torch.where(swap, start, end)
    first = torch.ceil(start[:, 1] - 0.5).clamp(0, height).long()
    item, step = expand(torch.ceil(end[:, 1] - 0.5).clamp(0, height).long() - first)
    row = first[item] + step
    slope = (end - start) / (end - start)[:, 1:2].clamp(min=1e-9)
    at = start[item] + (row + 0.5 - start[item, 1])[:, None] * slope[item]
    inside = start[:, 0] + (tip[:, 1] - start[:, 1]) * slope[:, 0] > tip[:, 0]  # on the left of the edge
    left = torch.floor(at[:, 0] - 0.5)
    shown = ((left >= 0) & (left < width - 1)).nonzero()[:, 0]
    row, at, left, inside = row[shown], at[shown], left[shown], inside[item[shown]]
    reach = at[:, 0] - 0.5 - left
    left = left.long()
    inner, outer = torch.where(inside, left, left + 1), torch.where(inside, left + 1, left)
    return torch.stack([inner, row]), torch.stack([outer, row]), torch.where(inside, reach, 1 - reach), at[:, 2]
