"""The renderer: PyTorch's z-buffer, shading and silhouettes say what the plain loops say, with numba and without."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from svdp.heads import loops
from svdp.heads.raster import fill_colours, rasterise, vertex_normals, z_buffer
from svdp.heads.shading import Look, colour, sample
from svdp.heads.silhouettes import make_mesh, smooth

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")]),
]


@pytest.fixture(params=[True, False], ids=["with numba", "without numba"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param and not loops.COMPILED:
        pytest.skip("numba is not installed")
    monkeypatch.setattr(loops, "COMPILED", request.param)
    return request.param


def brute_force(points, triangles, height, width):
    """Every pixel against every triangle, in float64."""
    index, depth = np.full((height, width), -1), np.full((height, width), -1e9)
    for y in range(height):
        for x in range(width):
            for f, (a, b, c) in enumerate(points[triangles].astype(np.float64)):
                u, v, p = b[:2] - a[:2], c[:2] - a[:2], np.array([x + 0.5, y + 0.5]) - a[:2]
                area = u[0] * v[1] - v[0] * u[1]
                if area >= 0:
                    continue
                w1, w2 = (p[0] * v[1] - v[0] * p[1]) / area, (u[0] * p[1] - p[0] * u[1]) / area
                z = (1 - w1 - w2) * a[2] + w1 * b[2] + w2 * c[2]
                if min(w1, w2, 1 - w1 - w2) >= 0 and z > depth[y, x]:
                    index[y, x], depth[y, x] = f, z
    return index, depth


@pytest.mark.usefixtures("compiled")
def test_rasteriser_equals_brute_force():
    rng = np.random.default_rng(0)
    points = (rng.random((24, 3)) * [34, 30, 10] - [3, 3, 0]).astype(np.float32)
    triangles = rng.integers(0, 24, (40, 3)).astype(np.int32)
    index, weights, depth = rasterise(points, triangles, 24, 28)
    expected, expected_depth = brute_force(points, triangles, 24, 28)
    assert (expected >= 0).mean() > 0.3 and (expected < 0).any()
    assert (index == expected).mean() > 0.995  # a pixel centre on an edge may fall either way
    same = (index == expected) & (index >= 0)
    np.testing.assert_allclose(depth[same], expected_depth[same], atol=1e-3)
    corners = points[triangles[index[same]]]
    w1, w2 = weights[same].T
    located = (1 - w1 - w2)[:, None] * corners[:, 0] + w1[:, None] * corners[:, 1] + w2[:, None] * corners[:, 2]
    np.testing.assert_allclose(located[:, :2], np.argwhere(same)[:, ::-1] + 0.5, atol=1e-2)


@pytest.mark.usefixtures("compiled")
def test_normals_of_front_faces_look_at_the_viewer():
    points = np.array([[0, 0, 0], [0, 9, 0], [9, 9, 0], [9, 0, 0]], np.float32)
    triangles = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    assert (rasterise(points, triangles, 9, 9)[0] >= 0).all()
    np.testing.assert_allclose(vertex_normals(points, triangles), np.tile([0, 0, 1], (4, 1)), atol=1e-6)


@pytest.mark.usefixtures("compiled")
def test_colours_spread_from_trusted_vertices():
    edges = np.array([[0, 1], [1, 2]], np.int32)
    colours = np.array([[10, 0, 0], [99, 99, 99], [30, 0, 0]], np.float32)
    filled = fill_colours(colours, np.array([1, 0, 1], np.float32), edges, 3)
    np.testing.assert_allclose(filled, [[10, 0, 0], [20, 0, 0], [30, 0, 0]])


def bumpy_sheet(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (V, 3) and triangles (F, 3) of a wavy sheet that hides parts of itself."""
    y, x = (grid.ravel() for grid in np.mgrid[:15, :15] / 14)
    z = np.sin(9 * x + 2 * y)
    points = np.stack(
        [size * (0.1 + 0.8 * x + 0.12 * z), size * (0.1 + 0.8 * y + 0.04 * np.cos(8 * x)), 0.3 * size * z], 1
    )
    first = (np.arange(14)[:, None] * 15 + np.arange(14)).ravel()
    triangles = np.concatenate(
        [np.stack([first, first + 15, first + 1], 1), np.stack([first + 1, first + 15, first + 16], 1)]
    )
    return points.astype(np.float32), triangles.astype(np.int32)


def on(device: str, *arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array).to(device) for array in arrays]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [24, 61])
def test_vectorised_z_buffer_equals_the_loop(device: str, size: int, monkeypatch: pytest.MonkeyPatch):
    points, triangles = bumpy_sheet(size)
    expected = loops.rasterise(points, triangles, size, size + 3)
    monkeypatch.setattr(loops, "COMPILED", False)
    found = [part.cpu().numpy() for part in z_buffer(*on(device, points, triangles), size, size + 3)]
    assert 0.3 < (expected[0] >= 0).mean() < 0.95
    same = found[0] == expected[0]
    assert same.mean() > 0.995
    np.testing.assert_array_equal(found[0] >= 0, expected[0] >= 0)
    for a, b in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(a[same], b[same], atol=1e-3)


def test_no_pixel_between_triangles_is_missed(monkeypatch: pytest.MonkeyPatch):
    """A fan that covers the picture, its corners on and between pixel centres."""
    monkeypatch.setattr(loops, "COMPILED", False)
    turn = np.linspace(0, -2 * np.pi, 37)[:-1]
    for middle in (8.0, 8.5, 8.3):
        rim = np.stack([middle + 40 * np.cos(turn), middle + 40 * np.sin(turn), np.zeros(36)], 1)
        points = np.concatenate([[[middle, middle, 0]], rim]).astype(np.float32)
        triangles = np.stack([np.zeros(36), np.arange(36) + 1, (np.arange(36) + 1) % 36 + 1], 1).astype(np.int32)
        assert (rasterise(points, triangles, 16, 16)[0] >= 0).all()


@pytest.mark.parametrize("device", DEVICES)
def test_vectorised_shading_equals_the_loop(device: str, monkeypatch: pytest.MonkeyPatch):
    rng, size = np.random.default_rng(0), 48
    points, triangles = bumpy_sheet(size)
    index, weights, _ = loops.rasterise(points, triangles, size, size)
    count = len(points)
    kinds = rng.integers(0, 3, len(triangles)).astype(np.int32)
    eye = np.concatenate([rng.uniform(-0.5, 0.5, (count, 3)), rng.uniform(0, 0.6, (count, 1))], 1)
    look = [
        rng.uniform(0, 255, (20, 30, 3)), rng.uniform(-2, 32, (count, 2)), rng.uniform(0, 1, count) > 0.4,
        rng.uniform(0, 255, (count, 3)), rng.uniform(0.7, 1.3, count), rng.uniform(0, 1, count), eye,
        rng.uniform(0, 255, (3, 3)),
    ]  # fmt: skip
    look = [array.astype(np.float32) for array in look]
    expected = loops.shade(index, weights, triangles, kinds, *look)
    monkeypatch.setattr(loops, "COMPILED", False)
    found = colour(*on(device, index, weights, triangles, kinds), Look(*on(device, *look)))
    np.testing.assert_allclose(found.cpu().numpy(), expected, atol=0.3)  # at the edge the loop stops .001 short


def test_samples_lie_between_pixel_centres_and_stay_in_the_picture():
    picture = torch.tensor([[0.0, 10], [20, 30]])[..., None]
    places = torch.tensor([[0.5, 0.5], [1, 0.5], [1, 1], [-5, 1.5], [9, 9]])
    np.testing.assert_allclose(sample(picture, places)[0], [0, 5, 15, 20, 30], atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("turn", [0.0, 0.3, np.pi / 4, 1.1])
def test_silhouettes_are_as_smooth_as_with_supersampling(device: str, turn: float):
    """A white square on black, turned, against the share of each pixel that it covers. No edge meets a pixel centre."""
    size, fine = 32, 16
    corners = np.array([[-9.3, -7], [-9.3, 7], [9.3, 7], [9.3, -7]]) @ [
        [np.cos(turn), np.sin(turn)],
        [-np.sin(turn), np.cos(turn)],
    ]
    points = np.concatenate([corners + np.array([16.23, 15.71]), np.ones((4, 1))], 1).astype(np.float32)
    triangles = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    covered = rasterise(points * [fine, fine, 1], triangles, fine * size, fine * size)[0] >= 0
    truth = covered.reshape(size, fine, size, fine).mean((1, 3))
    mesh = make_mesh(triangles, *np.zeros((2, 2), np.int32)).to(torch.device(device))
    shown = torch.from_numpy(points).to(device)
    index, _, depth = z_buffer(shown, mesh.triangles, size, size)
    hard = (index >= 0).float()[..., None]
    soft = smooth(hard, hard[..., 0], depth, shown, mesh, 1.0)[..., 0].cpu().numpy()
    assert np.abs(soft - truth).mean() < 0.4 * np.abs(hard[..., 0].cpu().numpy() - truth).mean() + 1e-3
    assert np.abs(soft - truth).max() < 0.32  # at a corner


def test_silhouettes_behind_something_stay_out_of_the_picture():
    """A far square's edge crosses a near square that hides it."""
    square = np.array([[2, 2], [2, 12], [12, 12], [12, 2]], np.float32)
    points = np.concatenate([np.c_[square + np.array([3.3, 0]), np.zeros(4)], np.c_[square + 1, np.full(4, 9)]]).astype(
        np.float32
    )
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], np.int32)
    mesh = make_mesh(triangles, *np.zeros((2, 4), np.int32))
    index, _, depth = z_buffer(torch.from_numpy(points), mesh.triangles, 20, 20)
    picture = torch.tensor([0.0, 100, 100, 200, 200])[index.long() + 1][..., None]
    found = smooth(picture, torch.ones_like(depth), depth, torch.from_numpy(points), mesh, 1.0)
    inner = np.s_[4:12, 4:12]  # within the near square, crossed by the far one's left edge
    np.testing.assert_array_equal(found[inner], picture[inner])
    assert (found != picture).any()


def test_an_edge_knows_its_triangles():
    mesh = make_mesh(np.array([[0, 1, 2], [2, 1, 3]]), *np.zeros((2, 2), np.int32))
    shared = (mesh.edges == torch.tensor([1, 2])).all(1).nonzero().item()
    assert sorted(mesh.sides[shared].tolist()) == [0, 1] and sorted(mesh.tips[shared].tolist()) == [0, 3]
    assert (mesh.sides[:, 1] == 2).sum() == 4  # the others have one triangle


WITHOUT_NUMBA = """
import sys, pkgutil, importlib
sys.modules["numba"] = None
import svdp.heads
for module in pkgutil.iter_modules(svdp.heads.__path__):
    importlib.import_module("svdp.heads." + module.name)
from svdp.heads import loops
from svdp.heads.raster import rasterise
import numpy as np
square = np.array([[0, 0, 0], [0, 9, 0], [9, 9, 0], [9, 0, 0]], np.float32)
index = rasterise(square, np.array([[0, 1, 2], [0, 2, 3]], np.int32), 9, 9)[0]
assert not loops.COMPILED and (index >= 0).all()
"""


def test_heads_work_where_numba_is_not_installed():
    subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], check=True, capture_output=True)
