"""Make the head model's npz from the folder FaceXModel of an ICT-FaceKit checkout (MIT).

Use: python -m svdp.heads.bake ICT-FaceKit/FaceXModel OUT.npz
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..errors import UserError


def read_vertices(path: Path) -> np.ndarray:
    """(V, 3) vertex positions of a Wavefront OBJ file."""
    with path.open() as lines:
        return np.array([line.split()[1:4] for line in lines if line.startswith("v ")], np.float32)


def read_triangles(path: Path) -> tuple[np.ndarray, list[str]]:
    """(F, 3) triangles of a Wavefront OBJ file (polygons as fans) and the material's name of each."""
    triangles: list[tuple[int, int, int]] = []
    names: list[str] = []
    material = ""
    with path.open() as lines:
        for line in lines:
            if line.startswith("usemtl"):
                material = line.split()[1]
            elif line.startswith("f "):
                corners = [int(part.split("/")[0]) - 1 for part in line.split()[1:]]
                fan = [(corners[0], b, c) for b, c in pairwise(corners[1:])]
                triangles += fan
                names += [material] * len(fan)
    return np.array(triangles, np.int32), names


def bake(folder: Path, out: Path) -> None:
    """Write `out` (npz: V, F, mat, mats, I, E, names, lm68). Raises UserError when `folder` is not FaceXModel."""
    mesh, indices = folder / "generic_neutral_mesh.obj", folder / "vertex_indices.json"
    if not mesh.is_file() or not indices.is_file():
        raise UserError(f"{folder} lacks {mesh.name} or {indices.name}: give the folder FaceXModel of ICT-FaceKit")
    described = json.loads(indices.read_text(encoding="utf-8"))
    neutral = read_vertices(mesh)
    triangles, names = read_triangles(mesh)
    materials = sorted(set(names))
    identity = [read_vertices(p) - neutral for p in sorted(folder.glob("identity*.obj"))]
    expression = [read_vertices(folder / f"{name}.obj") - neutral for name in described["expressions"]]
    np.savez_compressed(
        out,
        V=neutral,
        F=triangles,
        mat=np.array([materials.index(name) for name in names], np.uint8),
        mats=np.array(materials),
        I=np.stack(identity).astype(np.float16),
        E=np.stack(expression).astype(np.float16),
        names=np.array(described["expressions"]),
        lm68=np.array(described["idx_to_landmark_verts"]),
    )


def main() -> None:
    """Entry point of `python -m svdp.heads.bake FOLDER OUT`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    bake(arguments.folder, arguments.out)


if __name__ == "__main__":
    main()
