"""Simple geometry that MakeHuman's head lacks or has too coarse: eyeballs, rows of teeth, gums and a tongue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# rings of an eyeball in radians off its axis: dense where pupil and iris end
RINGS = (0.0, 0.07, 0.13, 0.155, 0.18, 0.22, 0.3, 0.34, 0.37, 0.385, 0.4, 0.43, 0.5, 0.6, 0.75, 0.95, 1.2, np.pi / 2,
         2.0, 2.5, np.pi)  # fmt: skip
SECTORS = 32
# centimetres of each tooth from the middle outwards: width, height of the crown
UPPER = ((0.86, 1.0), (0.66, 0.88), (0.76, 0.98), (0.7, 0.82), (0.68, 0.76), (0.98, 0.7), (0.9, 0.66))
LOWER = ((0.54, 0.86), (0.58, 0.88), (0.68, 0.96), (0.7, 0.84), (0.7, 0.78), (1.02, 0.72), (0.95, 0.68))
ACROSS = np.linspace(-1, 1, 7)
NARROW = 0.87
THICK = 0.3  # centimetres between the front and the back of a tooth


@dataclass(frozen=True)
class Piece:
    """A part of the mesh of one material."""

    material: str
    points: np.ndarray  # (n, 3) centimetres
    triangles: np.ndarray  # (f, 3) counter-clockwise from outside
    shade: np.ndarray  # (n,) factor on its colour


def sphere_of(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius of the sphere nearest to points (n, 3)."""
    rows = np.concatenate([2 * points, np.ones((len(points), 1))], 1)
    solution = np.linalg.lstsq(rows, (points**2).sum(1), rcond=None)[0]
    return solution[:3], float(np.sqrt(solution[3] + solution[:3] @ solution[:3]))


def eyeball(material: str, points: np.ndarray) -> Piece:
    """A sphere through the eyeball's points (n, 3), its pole at the pupil."""
    centre, radius = sphere_of(points)
    turn = 2 * np.pi * np.arange(SECTORS) / SECTORS
    rays = [np.array([[0.0, 0, 1]])]
    for angle in RINGS[1:-1]:
        flat = np.stack([np.cos(turn), np.sin(turn)], 1) * np.sin(angle)
        rays.append(np.concatenate([flat, np.full((SECTORS, 1), np.cos(angle))], 1))
    rays.append(np.array([[0.0, 0, -1]]))
    sphere = np.concatenate(rays)
    last, triangles = len(sphere) - 1, []
    for s in range(SECTORS):
        t = (s + 1) % SECTORS
        triangles.append((0, 1 + s, 1 + t))
        for r in range(len(RINGS) - 3):
            a, b = 1 + r * SECTORS, 1 + (r + 1) * SECTORS
            triangles += [(a + s, b + s, b + t), (a + s, b + t, a + t)]
        end = 1 + (len(RINGS) - 3) * SECTORS
        triangles.append((end + s, last, end + t))
    return Piece(material, centre + radius * sphere, np.array(triangles), np.ones(len(sphere)))


class Arch:
    """The curve along which a row of teeth stands, seen from above: half an ellipse, walked by its length."""

    def __init__(self, points: np.ndarray, *, upper: bool) -> None:
        """Lay the curve through MakeHuman's band of teeth (n, 3), which is too wide."""
        inset = 0.0 if upper else 0.32  # lower teeth stand behind the upper ones
        self.width = NARROW * np.abs(points[:, 0]).max() - inset / 2
        self.front = points[:, 2].max() - inset
        self.depth = np.ptp(points[:, 2]) - inset
        self.sizes = UPPER if upper else LOWER
        self.down = -1.0 if upper else 1.0  # from the gum to the edge
        self.edge = points[:, 1].min() - 0.2 if upper else points[:, 1].max() - 0.1
        angle = np.linspace(-np.pi / 2, np.pi / 2, 801)
        line = np.stack([self.width * np.sin(angle), self.front - self.depth * (1 - np.cos(angle))], 1)
        steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
        length = np.concatenate([[0], np.cumsum(steps)])
        self.length, self.line = length - length[400], line
        fit = min(1.0, (self.length[-1] - 0.1) / sum(width for width, _ in self.sizes))
        self.widths = np.array([width * fit for width, _ in self.sizes])
        self.borders = np.concatenate([[0], np.cumsum(self.widths)])

    def at(self, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (n, 2: x and z) at signed lengths (n,) from the middle, and the outward normals there."""
        point = self._on(length)
        forward = self._on(length + 0.05) - self._on(length - 0.05)
        normal = np.stack([-forward[:, 1], forward[:, 0]], 1)
        return point, normal / np.linalg.norm(normal, axis=1, keepdims=True)

    def root(self, length: np.ndarray) -> np.ndarray:
        """Heights (n,) of the gum's rim."""
        middles = (self.borders[1:] + self.borders[:-1]) / 2
        crowns = np.interp(np.abs(length), middles, [height for _, height in self.sizes])
        return self.edge - self.down * crowns

    def _on(self, length: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(length, self.length, self.line[:, k]) for k in (0, 1)], 1)


def teeth(points: np.ndarray, *, upper: bool) -> Piece:
    """A row of 14 teeth where MakeHuman's band of teeth (n, 3) is."""
    arch = Arch(points, upper=upper)
    vertices, triangles, shade = [], [], []
    for side in (-1, 1):
        for n, width in enumerate(arch.widths):
            grid, dark = _tooth(arch, side * (arch.borders[n] + width / 2), width, arch.sizes[n][1])
            triangles.append(_grid(*grid.shape[:2], flip=not upper) + sum(len(v) for v in vertices))
            vertices.append(grid.reshape(-1, 3))
            shade.append(dark.reshape(-1))
    return Piece("M_Teeth", np.concatenate(vertices), np.concatenate(triangles), np.concatenate(shade))


def _tooth(arch: Arch, middle: float, width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns, 3) grid over the front, the edge and the back of a tooth, and its shade."""
    # from the gum's front over the edge to the back: share of the height, centimetres outwards
    profile = ((-0.25, -0.04), (0.0, 0.0), (0.3, 0.05), (0.6, 0.06), (0.85, 0.03), (0.97, -0.03), (1.0, -0.1),
               (0.97, -0.18), (0.6, -THICK), (0.0, -THICK - 0.05))  # fmt: skip
    rows, darks = [], []
    for share, out in profile:
        taper = 0.9 + 0.1 * np.clip(share, 0, 0.7) / 0.7 - 0.06 * (share > 0.9)
        place, normal = arch.at(middle + ACROSS * width / 2 * taper)
        curve = 0.05 * ACROSS**2 + 0.03 * ACROSS**6  # a tooth is round, its corners lie further back
        place = place + normal * (out - curve)[:, None]
        corner = 0.06 * ACROSS**4 * (share > 0.9)
        y = arch.edge + arch.down * height * (share - corner - 1)
        rows.append(np.stack([place[:, 0], y, place[:, 1]], 1))
        gap = 1 - 0.45 * ACROSS**6
        darks.append(gap * (0.8 + 0.2 * np.clip(share / 0.4, 0, 1)) * (0.8 if out < -0.12 else 1.0))
    return np.array(rows), np.array(darks)


def gums(points: np.ndarray, *, upper: bool) -> Piece:
    """The flesh around the roots of a row of teeth: a band that is round in front and closed above or below."""
    arch = Arch(points, upper=upper)
    along = np.linspace(arch.length[0], arch.length[-1], 121)
    near = np.abs(np.abs(along)[:, None] - arch.borders[None]).min(1)
    papilla = 0.16 * np.exp(-((near / 0.12) ** 2))  # between two teeth the rim reaches further
    # from high above the roots over the rim to the palate: centimetres towards the edge, outwards, shade
    profile = ((-1.3, -0.45, 0.45), (-0.8, -0.02, 0.75), (-0.35, 0.06, 0.95), (0.02, 0.06, 1.0), (0.1, 0.0, 0.9),
               (0.05, -0.4, 0.6), (-0.6, -0.6, 0.45))  # fmt: skip
    rows, darks = [], []
    for step, out, dark in profile:
        place, normal = arch.at(along)
        place = place + normal * out
        y = arch.root(along) + arch.down * (step + papilla * (-0.1 <= step <= 0.2))
        rows.append(np.stack([place[:, 0], y, place[:, 1]], 1))
        darks.append(np.full(len(along), dark))
    grid = np.array(rows)
    return Piece("M_GumsTongue", grid.reshape(-1, 3), _grid(*grid.shape[:2], flip=not upper), np.concatenate(darks))


def tongue(points: np.ndarray, lower: np.ndarray) -> Piece:
    """A tongue that lies behind the lower teeth (n, 3): a flat dome, lower and shorter than MakeHuman's."""
    arch = Arch(lower, upper=False)
    top = arch.edge - 0.55
    back, front = points[:, 2].min() + 0.5, arch.front - 0.55
    width = arch.width - 0.6
    along, across = np.linspace(0, 1, 18), np.linspace(-1, 1, 15)
    rows, darks = [], []
    for a in along:
        z = front + (back - front) * a
        half = width * np.sqrt(1 - (1 - min(a / 0.45, 1.0)) ** 2)
        rise = 0.25 * np.sin(np.pi * min(a * 0.9 + 0.1, 1.0)) - 0.35 * (1 - min(a / 0.12, 1.0)) ** 2
        groove = 0.1 * np.exp(-((across / 0.12) ** 2)) * min(a / 0.2, 1.0)
        y = top + rise - 0.55 * np.abs(across) ** 3 - groove
        rows.append(np.stack([half * across, y, np.full(len(across), z)], 1))
        darks.append((1 - 0.25 * np.exp(-((across / 0.1) ** 2))) * (1 - 0.55 * a))
    grid = np.array(rows)
    return Piece("M_GumsTongue", grid.reshape(-1, 3), _grid(*grid.shape[:2], flip=True), np.concatenate(darks))


def _grid(rows: int, columns: int, *, flip: bool) -> np.ndarray:
    """(f, 3) triangles of a grid of vertices."""
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    a = (r * columns + c).reshape(-1)
    b, d, e = a + 1, a + columns, a + columns + 1
    triangles = np.concatenate([np.stack([a, d, b], 1), np.stack([b, d, e], 1)])
    return triangles[:, ::-1] if flip else triangles
