"""The warp of hair and background: the field of the multigrid is the one that a plain loop relaxes to."""

import numpy as np
import pytest
import torch
from svdp.heads.warp import SOFTENING, displacement_field, fill, move_photo, solve, splat, unstretched

SPACING = 8.0
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")]


def relaxed(field: np.ndarray, known: np.ndarray, screening: np.ndarray, rounds: int = 150) -> np.ndarray:
    """Gauss-Seidel with over-relaxation, node by node."""
    field = field.astype(np.float64).copy()
    count = field.shape[1]
    for _ in range(rounds):
        for i in range(1, count - 1):
            for j in range(1, count - 1):
                if not known[i, j]:
                    around = field[:, i - 1, j] + field[:, i + 1, j] + field[:, i, j - 1] + field[:, i, j + 1]
                    field[:, i, j] += 1.8 * (around / (4 * (1 + screening[i, j])) - field[:, i, j])
    return field


def softened(field: np.ndarray, known: np.ndarray, screening: np.ndarray) -> np.ndarray:
    """Rounds in which known nodes move half the way to the mean of their neighbours, the others all the way."""
    for _ in range(SOFTENING):
        before = field.copy()
        for i in range(1, field.shape[1] - 1):
            for j in range(1, field.shape[2] - 1):
                around = before[:, i - 1, j] + before[:, i + 1, j] + before[:, i, j - 1] + before[:, i, j + 1]
                mean = around / (4 * (1 + screening[i, j]))
                field[:, i, j] = (before[:, i, j] + mean) / 2 if known[i, j] else mean
    return field


def face_and_hair(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(2, count, count) displacements of up to 30 pixels in an ellipse and on an arc about it, and where they are."""
    y, x = np.mgrid[:count, :count].astype(np.float32)
    middle = (count - 1) / 2
    known = ((x - middle) / (count / 6)) ** 2 + ((y - middle) / (count / 4.5)) ** 2 < 1
    turn = np.radians(np.arange(-25, 206, 3))
    rows, columns = middle - count / 3.6 * np.sin(turn), middle + count / 4.2 * np.cos(turn)
    known[rows.astype(int), columns.astype(int)] = True
    return np.stack([20 + 0.2 * (x - y), -15 + 0.3 * y + 2 * np.sin(x)]) * known, known


def test_multigrid_equals_the_loop():
    count = 33
    field, known = face_and_hair(count)
    screening = np.where(np.arange(count) < 22, 0.001, 0.007)[:, None].repeat(count, 1).astype(np.float32)
    arrays = field[None].astype(np.float32), known[None, None], screening
    found = solve(*(torch.from_numpy(a) for a in arrays))[0]
    expected = relaxed(field, known, screening)
    assert np.abs(expected).max() > 20
    np.testing.assert_allclose(found.numpy(), expected, atol=0.06)


def test_field_equals_the_loop():
    """Splat, solution and softening together, from scattered points."""
    rng, count = np.random.default_rng(0), 17
    end = rng.uniform(40, 90, (400, 2)).astype(np.float32)
    start = end + np.array([12, -7], np.float32) + rng.normal(0, 1, (400, 2)).astype(np.float32)
    weights = rng.uniform(0, 1, 400).astype(np.float32)
    screening = np.full((count, count), 0.002, np.float32)
    found = displacement_field(
        *(torch.from_numpy(a) for a in (start, end[None], weights[None])), SPACING, torch.from_numpy(screening)
    )[0]
    total = np.zeros((3, count, count))
    for a, b, w in zip(start, end, weights, strict=True):
        for i in range(count):
            for j in range(count):
                share = w * max(0, 1 - abs(b[0] / SPACING - j)) * max(0, 1 - abs(b[1] / SPACING - i))
                total[:, i, j] += share * np.array([*(a - b), 1])
    known = total[2] > 0.2
    field = np.where(known, total[:2] / np.maximum(total[2], 0.2), 0)
    expected = softened(relaxed(field, known, screening), known, screening)
    np.testing.assert_allclose(found.numpy(), expected, atol=0.06)


def test_frames_solved_together_are_those_solved_alone():
    rng, count = np.random.default_rng(1), 33
    end = torch.from_numpy(rng.uniform(60, 180, (3, 300, 2)).astype(np.float32))
    start = end[1] + torch.from_numpy(rng.normal(0, 6, (300, 2)).astype(np.float32))
    weights = torch.from_numpy(rng.uniform(0, 1, (3, 300)).astype(np.float32))
    screening = torch.full((count, count), 0.002)
    together = displacement_field(start, end, weights, SPACING, screening)
    for t in range(3):
        alone = displacement_field(start, end[t : t + 1], weights[t : t + 1], SPACING, screening)
        torch.testing.assert_close(together[t], alone[0], atol=1e-4, rtol=1e-5)


def test_points_beyond_the_grid_and_without_weight_are_left_out():
    nodes = torch.tensor([[2.25, 1.5], [-0.5, 2], [4.5, 2], [1, 1]])
    total = splat(torch.ones(4, 1), nodes, torch.tensor([2.0, 1, 1, 0]), 5)
    assert total.sum() == 4  # the first point's value and weight
    assert total[0, 1:3, 2:4].tolist() == [[0.75, 0.25], [0.75, 0.25]]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_warp_field_carries_a_shift_and_rests_at_the_border(device: str):
    x, y = np.meshgrid(np.arange(60, 100, 2.0), np.arange(60, 100, 2.0))
    end = torch.tensor(np.stack([x.ravel(), y.ravel()], 1), dtype=torch.float32, device=device)
    still = torch.zeros(21, 21, device=device)
    field = displacement_field(
        end + torch.tensor([6.0, -4], device=device), end[None], torch.ones(1, len(end), device=device), SPACING, still
    )
    field = field[0].cpu().numpy()
    np.testing.assert_allclose(field[:, 10, 10], [6, -4], atol=0.02)
    assert not np.concatenate([field[:, 0], field[:, -1], field[:, :, 0], field[:, :, -1]]).any()
    run = field[0, 10, 12:]  # from the patch to the border
    assert (np.diff(run) <= 1e-4).all() and 0 < run[4] < 6


def test_stretch_and_folds_are_not_known():
    y, x = (grid.astype(np.float32) * SPACING for grid in np.mgrid[:12, :12])
    still = np.zeros_like(x)
    for field, expected in (
        ((still + 5, still - 3), 1),  # moved
        ((-0.15 * y, 0.15 * x), 1),  # turned a little
        ((-0.75 * x, still), 0),  # four times as wide
        ((still, 2.0 * y), 0),  # a third as high
        ((-1.5 * x, still), 0),  # folded
    ):
        found = unstretched(torch.from_numpy(np.stack(field)), SPACING)
        np.testing.assert_allclose(found[1:-1, 1:-1], expected, atol=0.01)


def test_a_photo_moves_along_and_is_not_known_beyond_its_edge():
    count, side = 17, 128
    photo = torch.arange(side - 1.0)[None, :, None].expand(side - 1, side - 1, 3) + 1  # column number, as Portrait.soft
    field = torch.zeros(2, count, count)
    field[0] = 6.0  # what is shown lies 6 pixels further right in the photo
    affine = np.array([[0.5, 0, -16], [0, 0.5, -16]])
    frame = np.array([0.0, 0, 80, 128], np.float32)
    moved, origin, lost = move_photo(field, side / (count - 1), photo, frame, affine, 32)
    columns = 2 * (np.arange(32) + 0.5) + 32 + 6
    np.testing.assert_allclose(origin[5, :, 0], columns, atol=1e-4)
    np.testing.assert_allclose(moved[5, :, 0], columns, atol=1e-3)
    np.testing.assert_array_equal(moved[5, :, 3], columns <= 80)
    np.testing.assert_array_equal(lost[5], (columns > 80) & (columns - 6 < 80))


def test_holes_are_filled_from_the_surroundings():
    y, x = np.mgrid[:40, :40].astype(np.float32)
    truth = torch.from_numpy(np.stack([x, y, 0 * x + 7], 2))
    hole = torch.zeros(40, 40)
    hole[15:22, 12:20] = 1
    found = fill(torch.where(hole[..., None] > 0, 200.0, truth), hole, 1 - hole)
    np.testing.assert_allclose(found, truth, atol=4)
    np.testing.assert_array_equal(found[hole == 0], truth[hole == 0])
