"""The warp of hair and background: displacements known at points of the head, smooth between, at rest at the border.

All of it is PyTorch and runs where its tensors lie. A field (T, C, N, N) holds values at N nodes a side in T frames,
solved together: the screened Laplace equation 4 (1 + s) u = sum of the four neighbours, by conjugate gradients, each
step preconditioned by one multigrid cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .shading import sample

LEAST_WEIGHT = 0.2  # of the points about a node, from which on the node is known
SHARE_KNOWN = 0.3  # of the fine nodes about a coarse one, from which on the coarse one is known
ROUNDS = 3
COARSEST = 8  # nodes a side below which a level is swept SWEEPS times, and so solved
SWEEPS = 4
STRETCH_KEPT = (0.4, 1.0)  # log of the warp's local stretch: still the photo, no longer
FILL_SIDE = 128  # pixels a side of the picture in which holes are filled
ENOUGH = 4.0  # a quarter of a coarse pixel must be there for it to count whole
SOFTENING = 2  # rounds that smooth the known nodes, too


def displacement_field(start: Tensor, end: Tensor, weights: Tensor, spacing: float, screening: Tensor) -> Tensor:
    """Smooth field of (start - end), known at the points `end`, zero on the border of the grid.

    Args:
        start: (V, 2) pixels; end: (T, V, 2), where they are in T frames; weights (T, V): trust, 0 leaves a point out.
        spacing: pixels between nodes; screening (N, N): how fast the field fades. N - 1 should be a multiple of 16.

    Returns:
        (T, 2, N, N) float32, at nodes (i * spacing, j * spacing): right and down.
    """
    count = len(screening)
    total = torch.stack([splat(start - e, e / spacing, w, count) for e, w in zip(end, weights, strict=True)])
    known = total[:, 2:] > LEAST_WEIGHT
    known = known & (inner_mask(count, known.device) > 0)
    field = torch.where(known, total[:, :2] / total[:, 2:].clamp(min=LEAST_WEIGHT), 0.0)
    return soften(solve(field, known, screening), known, screening)


def move_photo(
    field: Tensor, spacing: float, soft: Tensor, frame: np.ndarray | None, affine: np.ndarray, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The photo moved by the field: (size, size, 4), with how far it is still the photo.

    It is the photo, 1, where nothing is stretched, squeezed or folded much, and not, 0, beyond the photo's edge. Also
    from where each pixel comes (size, size, 2), and how far it comes from beyond the edge while it lies within.

    Args:
        field, spacing: from `displacement_field`, on the canvas. soft: Portrait.soft; frame: Portrait.frame.
        affine: (2, 3) canvas -> picture, a scale and a shift.
    """
    pixel = torch.arange(size, device=field.device) + 0.5
    x, y = ((pixel - float(affine[k, 2])) / float(affine[k, k]) for k in (0, 1))
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)
    values = torch.cat([field, unstretched(field, spacing)[None]]).permute(1, 2, 0)
    moved = sample(values, places / spacing + 0.5)
    origin = places + moved[:2].permute(1, 2, 0)
    known, lost = moved[2], torch.zeros_like(moved[2])
    if frame is not None:
        there = within(origin, frame, float(affine[0, 0]))
        known, lost = known * there, (within(places, frame, float(affine[0, 0])) - there).clamp(min=0)
    return torch.cat([sample(soft, origin - 0.5), known[None]]).permute(1, 2, 0), origin, lost


def within(places: Tensor, frame: np.ndarray, zoom: float) -> Tensor:
    """How far places (..., 2) lie within a frame of left, top, right, bottom: 0 to 1; zoom: pixels a unit."""
    left, top, right, bottom = (float(edge) for edge in frame)
    x, y = places.unbind(-1)
    gap = torch.minimum(torch.minimum(x - left, right - x), torch.minimum(y - top, bottom - y))
    return (gap * zoom + 0.5).clamp(0, 1)


def fill(picture: Tensor, hole: Tensor, source: Tensor) -> Tensor:
    """The picture (H, W, C) with its hole (H, W) in 0..1 filled smoothly from where `source` (H, W) is 1."""
    coarse = max(2, len(source) // FILL_SIDE)
    weights = [F.avg_pool2d(source[None, None], coarse, ceil_mode=True)]
    sums = [F.avg_pool2d(picture.permute(2, 0, 1)[None] * source, coarse, ceil_mode=True)]
    while min(sums[-1].shape[2:]) > 1:
        weights.append(F.avg_pool2d(weights[-1], 2, ceil_mode=True))
        sums.append(F.avg_pool2d(sums[-1], 2, ceil_mode=True))
    filled = sums[-1] / weights[-1].clamp(min=1e-6)
    for total, weight in zip(sums[-2::-1], weights[-2::-1], strict=True):
        filled = F.interpolate(filled, size=total.shape[2:], mode="bilinear", align_corners=False)
        filled = torch.lerp(filled, total / weight.clamp(min=1e-6), (weight * ENOUGH).clamp(max=1))
    filled = F.interpolate(filled, size=source.shape, mode="bilinear", align_corners=False)
    return picture + hole[..., None] * (filled[0].permute(1, 2, 0) - picture)


def unstretched(field: Tensor, spacing: float) -> Tensor:
    """(N, N) float32: 1 where the warp x -> x + field (2, N, N) keeps lengths, 0 where it stretches or folds them."""
    (c, a), (d, b) = (torch.gradient(part, spacing=spacing) for part in field)
    a, b, c, d = a + 1, b, c, d + 1  # [[a, c], [b, d]] is the Jacobian
    mean, spread = torch.hypot(a + d, b - c) / 2, torch.hypot(a - d, b + c) / 2
    shortest = torch.where(a * d > b * c, mean - spread, 0.0)  # singular values of the Jacobian: mean +- spread
    stretch = torch.maximum((mean + spread).log(), -shortest.clamp(min=1e-3).log())
    share = ((STRETCH_KEPT[1] - stretch) / (STRETCH_KEPT[1] - STRETCH_KEPT[0])).clamp(0, 1)
    return share * share * (3 - 2 * share)


def splat(values: Tensor, nodes: Tensor, weights: Tensor, count: int) -> Tensor:
    """(C + 1, count, count): weighted sums of the values (V, C) near each node, and of the weights; bilinear."""
    corner = nodes.floor()
    inside = (corner >= 0).all(1) & (corner < count - 1).all(1) & (weights > 0)
    corner, nodes, values, weights = corner[inside], nodes[inside], values[inside], weights[inside]
    right, down = (nodes - corner).T
    first = (corner[:, 1] * count + corner[:, 0]).long()
    shares = torch.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down]) * weights
    places = torch.stack([first, first + 1, first + count, first + count + 1])
    rows = torch.cat([values, torch.ones_like(values[:, :1])], 1)
    total = rows.new_zeros(count * count, rows.shape[1])
    total.index_add_(0, places.reshape(-1), (shares[..., None] * rows).reshape(-1, rows.shape[1]))
    return total.T.reshape(-1, count, count).contiguous()


def inner_mask(count: int, device: torch.device) -> Tensor:
    """(count, count) float32: 1 but on the border."""
    return F.pad(torch.ones(count - 2, count - 2, device=device), (1, 1, 1, 1))


@dataclass(frozen=True)
class Level:
    """One grid of the multigrid; float32, of the nodes within the border."""

    factor: Tensor  # (N - 2, N - 2) 1 / (4 (1 + s))
    free: Tensor  # (T, 1, N - 2, N - 2) 1 where the equation holds, 0 where the value is known
    colours: tuple[Tensor, Tensor]  # likewise: the free nodes on a chessboard's white and on its black squares


def solve(field: Tensor, known: Tensor, screening: Tensor) -> Tensor:
    """The field (T, C, N, N), its values kept where known (T, 1, N, N) bool and on the border, else the equation's."""
    levels = _levels(known, screening)
    solution = _first_guess(field, levels)
    inner = solution[..., 1:-1, 1:-1]
    rest = _residual(solution, torch.zeros_like(inner), levels[0])
    step = torch.zeros_like(solution)
    size = torch.ones(*field.shape[:2], 1, 1, device=field.device)
    for _ in range(ROUNDS):
        better = torch.zeros_like(solution)
        _cycle(better, rest, levels)
        before, size = size, (rest * better[..., 1:-1, 1:-1]).sum((2, 3), keepdim=True)
        step = better + size / before.clamp(min=1e-20) * step
        change = -_residual(step, torch.zeros_like(rest), levels[0])
        length = size / (step[..., 1:-1, 1:-1] * change).sum((2, 3), keepdim=True).clamp(min=1e-20)
        solution += length * step
        rest = rest - length * change
    return solution


def soften(field: Tensor, known: Tensor, screening: Tensor) -> Tensor:
    """The field after a few rounds in which known nodes move half the way to what the equation says, others all."""
    pace = torch.where(known, 0.5, 1.0)[..., 1:-1, 1:-1]
    factor = 0.25 / (1 + screening[1:-1, 1:-1])
    for _ in range(SOFTENING):
        wanted = factor * _neighbours(field)
        field = F.pad(torch.lerp(field[..., 1:-1, 1:-1], wanted, pace.expand_as(wanted)), (1, 1, 1, 1))
    return field


def _levels(known: Tensor, screening: Tensor) -> list[Level]:
    """The grids from fine to coarse. A coarse node is known where enough fine ones about it are."""
    levels = []
    fixed = known.float()
    while True:
        free = 1 - fixed[..., 1:-1, 1:-1]
        rows = torch.arange(free.shape[-1], device=free.device)
        white = ((rows[:, None] + rows[None]) % 2).float()
        factor = 0.25 / (1 + screening[1:-1, 1:-1])
        levels.append(Level(factor, free, (free * white, free * (1 - white))))
        if len(screening) < COARSEST or len(screening) % 2 == 0:
            return levels
        fixed = (F.avg_pool2d(fixed, 3, 2, 1) > SHARE_KNOWN).float()
        screening = 4 * screening[::2, ::2]


def _neighbours(field: Tensor) -> Tensor:
    """(T, C, N - 2, N - 2) sums of the four neighbours."""
    total = field[..., :-2, 1:-1] + field[..., 2:, 1:-1]
    return total.add_(field[..., 1:-1, :-2]).add_(field[..., 1:-1, 2:])


def _residual(field: Tensor, right: Tensor, level: Level) -> Tensor:
    """(T, C, N - 2, N - 2): right - (4 (1 + s) u - neighbours) at the free nodes, 0 at the others."""
    return (_neighbours(field) + right - field[..., 1:-1, 1:-1] / level.factor) * level.free


def _sweep(field: Tensor, right: Tensor, level: Level, rounds: int, order: tuple[int, int] = (0, 1)) -> None:
    """Gauss-Seidel rounds, in place: white nodes, then black ones."""
    inner = field[..., 1:-1, 1:-1]
    for _ in range(rounds):
        for colour in order:
            wanted = _neighbours(field).add_(right).mul_(level.factor)
            inner.add_(wanted.sub_(inner).mul_(level.colours[colour]))


def _cycle(field: Tensor, right: Tensor, levels: list[Level]) -> None:
    """One V-cycle on 4 (1 + s) u - neighbours = right, in place."""
    level = levels[0]
    if len(levels) == 1:
        _sweep(field, right, level, SWEEPS)
        return
    _sweep(field, right, level, 1)
    coarse = 4 * _restrict(F.pad(_residual(field, right, level), (1, 1, 1, 1)))
    correction = torch.zeros_like(F.pad(coarse, (1, 1, 1, 1)))
    _cycle(correction, coarse, levels[1:])
    finer = F.interpolate(correction, size=field.shape[2:], mode="bilinear", align_corners=True)
    field[..., 1:-1, 1:-1] += finer[..., 1:-1, 1:-1] * level.free
    _sweep(field, right, level, 1, (1, 0))


def _restrict(rest: Tensor) -> Tensor:
    """(T, C, m, m): means with weights 1 2 1 in each direction, about every other node of (T, C, 2 m + 3, 2 m + 3)."""
    rows = 0.25 * (rest[..., 1:-2:2, :] + rest[..., 3::2, :]) + 0.5 * rest[..., 2:-1:2, :]
    return 0.25 * (rows[..., 1:-2:2] + rows[..., 3::2]) + 0.5 * rows[..., 2:-1:2]


def _first_guess(field: Tensor, levels: list[Level]) -> Tensor:
    """The field with unknown nodes guessed: known values are averaged to coarser grids and solved there first."""
    if len(levels) == 1:
        guess = field.clone()
        _sweep(guess, torch.zeros_like(field[..., 1:-1, 1:-1]), levels[0], SWEEPS)
        return guess
    known = F.pad(1 - levels[0].free, (1, 1, 1, 1))
    sums = _restrict(torch.cat([field * known, known], 1))
    coarse = F.pad(sums[:, :-1] / sums[:, -1:].clamp(min=1e-6), (1, 1, 1, 1))
    coarse = coarse * F.pad(1 - levels[1].free, (1, 1, 1, 1))
    guess = F.interpolate(_first_guess(coarse, levels[1:]), size=field.shape[2:], mode="bilinear", align_corners=True)
    guess = torch.where(known > 0, field, guess)
    _sweep(guess, torch.zeros_like(field[..., 1:-1, 1:-1]), levels[0], 1)
    return guess
