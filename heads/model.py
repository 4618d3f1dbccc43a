"""The head model as arrays, and the shapes that it makes: MakeHuman's head (bundled) or ICT-FaceKit Light."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from . import raster

BUNDLED = Path(__file__).resolve().parents[1] / "assets" / "head" / "makehuman.npz"
UNUSED = ("M_EyeBlend", "M_EyeOcclusion", "M_LacrimalFluid", "M_EyeLashes", "M_IrisLeft", "M_IrisRight")
BALLS = ("M_ScleraLeft", "M_ScleraRight")
LARGEST = 1e4  # centimetres; no number of a head is near it
SHADING = {
    "M_ScleraLeft": raster.EYE,
    "M_ScleraRight": raster.EYE,
    "M_Teeth": raster.MOUTH,
    "M_GumsTongue": raster.MOUTH,
}


EYE_YAW, EYE_PITCH = np.radians(32.0), np.radians(25.0)  # how far a whole eyeLook* turns an eye


@dataclass(frozen=True)
class HeadModel:
    """Neutral head, identity and expression shapes in centimetres (x to the head's left, y up, z forward)."""

    neutral: np.ndarray  # (V, 3) float32
    triangles: np.ndarray  # (F, 3) int32
    material: np.ndarray  # (F,) index into materials
    materials: tuple[str, ...]
    identity: np.ndarray  # (N, V, 3) float32, modes of unit variance
    expression: np.ndarray  # (53, V, 3) float32
    names: tuple[str, ...]  # of the expressions, ARKit style with _L and _R
    landmarks68: np.ndarray  # (68,) vertices of the 68-point scheme
    eyeballs: tuple[np.ndarray, np.ndarray]  # vertices of the left and the right one
    shade: np.ndarray | None = None  # (V,) how dark the inside of the mouth is painted; None: by its depth

    @property
    def num_vertices(self) -> int:
        """Number of vertices."""
        return len(self.neutral)

    def part(self, *names: str) -> np.ndarray:
        """Vertices of the named materials, ascending."""
        chosen = np.isin(self.material, [self.materials.index(n) for n in names])
        return np.unique(self.triangles[chosen])

    def shading(self) -> np.ndarray:
        """(F,) int32: how each triangle is shaded (raster.SKIN, EYE or MOUTH)."""
        kinds = np.array([SHADING.get(n, raster.SKIN) for n in self.materials], np.int32)
        return kinds[self.material]

    def edges(self) -> np.ndarray:
        """(E, 2) int32 edges of the mesh, each once."""
        pairs = np.concatenate([self.triangles[:, [0, 1]], self.triangles[:, [1, 2]], self.triangles[:, [2, 0]]])
        return np.unique(np.sort(pairs, 1), axis=0).astype(np.int32)

    def person(self, identity: np.ndarray) -> np.ndarray:
        """(V, 3) neutral head with identity weights (N,)."""
        return self.neutral + np.tensordot(identity.astype(np.float32), self.identity, 1)

    def express(self, person: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """(T, V, 3) the head `person` (V, 3) with expression weights (T, 53); its eyes look where eyeLook* says.

        The shapes of ICT-FaceKit move the lids alone, so the eyeballs are turned here.
        """
        flat = expression.astype(np.float32) @ self.expression.reshape(len(self.names), -1)
        heads = person[None] + flat.reshape(-1, self.num_vertices, 3)
        for ball, side, outwards in zip(self.eyeballs, "LR", (1, -1), strict=True):
            look = {d: expression[:, self.names.index(f"eyeLook{d}_{side}")] for d in ("Out", "In", "Up", "Down")}
            yaw = outwards * EYE_YAW * (look["Out"] - look["In"])
            pitch = EYE_PITCH * (look["Down"] - look["Up"])
            centre = eye_centre(person[ball])
            heads[:, ball] = centre + np.einsum("tij,vj->tvi", _turns(yaw, pitch), person[ball] - centre)
        return heads

    def from_blendshapes(self, names: tuple[str, ...]) -> np.ndarray:
        """(len(names), 53) matrix from MediaPipe/ARKit blendshape values to expression weights."""
        table = np.zeros((len(names), len(self.names)), np.float32)
        for j, own in enumerate(self.names):
            whole = own.split("_")[0]
            name = whole if whole in ("browInnerUp", "cheekPuff") else own.replace("_L", "Left").replace("_R", "Right")
            if name in names:
                table[names.index(name), j] = 1
        return table


def load_head_model(path: Path) -> HeadModel:
    """Read the npz that `heads.bake` or `heads.bake_makehuman` writes.

    Raises UserError when it is missing or is something else.
    """
    if not path.is_file():
        raise UserError(
            f"no head model at {path}: make it from an ICT-FaceKit checkout with "
            "`python -m svdp.heads.bake FaceXModel OUT.npz` and name it in the configuration (head_model)"
        )
    try:
        with np.load(path) as data:
            arrays = {name: data[name] for name in data.files}
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is not a head model that can be read ({error}): bake it again") from error
    except (AttributeError, TypeError) as error:  # an array alone, not several
        raise UserError(f"{path} is not a head model: it holds no named arrays; bake it again") from error
    _check(path, arrays)
    if "cage" in arrays:
        _move_pieces(arrays)
    return _without_unused(arrays)


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise UserError that names the first array that is missing, misshapen, of another type or out of range."""
    missing = {"V", "F", "mat", "mats", "I", "E", "names", "lm68"} - set(arrays)
    if "cage" in arrays:
        missing |= {"cage_I", "cage_E"} - set(arrays)
    if missing:
        raise UserError(f"{path} is not a head model: arrays {sorted(missing)} are missing; bake it again")
    size = {name: arrays[name].shape[0] if arrays[name].ndim else 0 for name in arrays}
    caged = size["cage"] if "cage" in arrays else 0
    free, cages = size["V"] - caged, arrays["cage_I"].shape[1] if caged and arrays["cage_I"].ndim == 4 else 0
    expected: dict[str, tuple[str, tuple[int, ...]]] = {  # kinds of numpy's types, shape
        "V": ("f", (size["V"], 3)), "F": ("iu", (size["F"], 3)), "mat": ("iu", (size["F"],)),
        "mats": ("U", (size["mats"],)), "I": ("f", (size["I"], free, 3)), "E": ("f", (size["E"], free, 3)),
        "names": ("U", (size["E"],)), "lm68": ("iu", (68,)), "shade": ("f", (size["V"],)), "cage": ("iu", (caged,)),
        "cage_I": ("f", (size["I"], cages, 3, 4)), "cage_E": ("f", (size["E"], cages, 3, 4)),
    }  # fmt: skip
    limits = {"F": size["V"], "lm68": size["V"], "mat": size["mats"], "cage": cages}
    for name, (kinds, shape) in expected.items():
        if name not in arrays:
            continue
        array = arrays[name]
        if array.dtype.kind not in kinds or array.shape != shape or not array.size:
            problem = f"is {array.dtype} of shape {array.shape}, which does not go with the others"
        elif array.dtype.kind == "f" and not np.abs(array).max() < LARGEST:
            problem = "has numbers that are not finite, or too large"
        elif name in limits and not 0 <= int(array.min()) <= int(array.max()) < limits[name]:
            problem = f"has numbers that are not from 0 to {limits[name] - 1}"
        else:
            continue
        raise UserError(f"{path} is not a head model: {name} {problem}; bake it again")
    lacking = [name for name in BALLS if name not in arrays["mats"][np.unique(arrays["mat"])]]
    if lacking:
        raise UserError(f"{path} is not a head model: no triangle is of {' or '.join(lacking)}; bake it again")


def _move_pieces(arrays: dict[str, np.ndarray]) -> None:
    """Give the last vertices, which have no shapes of their own, the affine motion of their cages.

    `cage` (n,) names the cage of each of the last n vertices; cage_I and cage_E (N, cages, 3, 4) move [x, y, z, 1].
    """
    cage = arrays["cage"]
    points = arrays["V"][-len(cage) :]
    rows = np.concatenate([points, np.ones((len(points), 1), points.dtype)], 1)
    for name in ("I", "E"):
        moved = np.einsum("nvdp,vp->nvd", arrays[f"cage_{name}"][:, cage], rows)
        arrays[name] = np.concatenate([arrays[name].astype(np.float32), moved.astype(np.float32)], 1)


def eye_centre(ball: np.ndarray) -> np.ndarray:
    """(3,) centre of the sphere that an eyeball (n, 3) is, but for its cornea."""
    low, high = ball.min(0), ball.max(0)
    return np.array([*(low + high)[:2] / 2, low[2] + (high - low)[0] / 2], np.float32)


def _turns(yaw: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """(T, 3, 3) rotations Ry(yaw) Rx(pitch) from radians (T,)."""
    cy, sy, cp, sp, zero = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.zeros_like(yaw)
    rows = [[cy, sy * sp, sy * cp], [zero, cp, -sp], [-sy, cy * sp, cy * cp]]
    return np.array(rows, np.float32).transpose(2, 0, 1)


def _without_unused(arrays: dict[str, np.ndarray]) -> HeadModel:
    """Drop the parts that are not drawn and the vertices that only they use."""
    materials = [str(name) for name in arrays["mats"]]
    kept = ~np.isin(arrays["mat"], [materials.index(n) for n in UNUSED if n in materials])
    triangles, material = arrays["F"][kept].astype(np.int32), arrays["mat"][kept]
    used = np.unique(np.concatenate([triangles.reshape(-1), arrays["lm68"]]))
    renumber = np.full(len(arrays["V"]), -1, np.int32)
    renumber[used] = np.arange(len(used), dtype=np.int32)
    balls = [np.unique(triangles[material == materials.index(ball)]) for ball in BALLS]
    return HeadModel(
        neutral=arrays["V"][used].astype(np.float32),
        triangles=np.ascontiguousarray(renumber[triangles]),
        material=material.astype(np.int32),
        materials=tuple(materials),
        identity=arrays["I"][:, used].astype(np.float32),
        expression=arrays["E"][:, used].astype(np.float32),
        names=tuple(str(n) for n in arrays["names"]),
        landmarks68=renumber[arrays["lm68"]],
        eyeballs=(renumber[balls[0]], renumber[balls[1]]),
        shade=arrays["shade"][used].astype(np.float32) if "shade" in arrays else None,
    )
