"""Imports go one way, and each layer knows only the libraries that are its own.

model <- model.backends, signals <- heads <- nodes, training, evaluation, animation <- cli; `errors` is below all.
Nodes may also evaluate.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TORCH = frozenset({"torch", "numpy", "einops", "safetensors"})
MEDIA = frozenset({"numpy", "cv2", "PIL", "av"})
STANDARD = set(sys.stdlib_module_names) | {"tomllib"}  # from Python 3.11 on
TRAINING = TORCH | MEDIA | {"accelerate", "numba", "peft", "tensorboard", "tomli", "matplotlib"}
TRAINING |= {"fsspec"}  # optional
COMFY = frozenset({"comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview"})
EMBEDDERS = frozenset({"dlib", "face_recognition_models", "ai_edge_litert"})


@dataclass(frozen=True)
class Rule:
    """What a layer may import: layers of this package, and libraries beside the standard library."""

    layers: frozenset[str]
    libraries: frozenset[str]


def _rule(layers: str, libraries: frozenset[str] = frozenset()) -> Rule:
    return Rule(frozenset(layers.split()), libraries)


RULES = {
    "": _rule("errors nodes animation"),  # the root asks for nodes and API inside functions
    "model": _rule("model errors", TORCH),
    "model.backends": _rule("model model.backends errors", TORCH),
    "signals": _rule("signals errors", MEDIA | {"mediapipe", "ai_edge_litert"}),
    "training": _rule("training training.data heads model model.backends signals errors", TRAINING),
    "training.data": _rule("training.data training heads model model.backends signals errors", TRAINING),
    "heads": _rule("heads signals errors", MEDIA | {"numba", "torch"}),
    "evaluation": _rule(
        "evaluation heads model signals errors", TORCH | MEDIA | EMBEDDERS | {"matplotlib", "rich", "tomli"}
    ),
    "nodes": _rule("nodes evaluation heads model model.backends signals errors", TORCH | COMFY),
    "animation": _rule("animation heads model model.backends signals errors", TORCH | MEDIA | {"tomli"}),
    "cli": _rule(
        "cli animation training training.data heads evaluation model model.backends signals errors",
        TORCH | MEDIA | {"rich", "typer"},
    ),
}
BACKENDS = {
    "model/backends/diffusers.py": "diffusers",
    "model/backends/diffusers_vae.py": "diffusers",
    "model/backends/comfy.py": "comfy",
    "model/backends/comfy_blocks.py": "comfy",
    "model/backends/comfy_guider.py": "comfy",
    "model/backends/comfy_sampling.py": "comfy",
    "model/backends/comfy_vae.py": "comfy",
}
BACKEND_LIBRARIES = frozenset({"diffusers", "comfy", "comfy_api", "comfy_extras", "folder_paths", "nodes"})


def shipped_files(root: Path) -> list[Path]:
    """Python files of the package, relative to the checkout."""
    folders = [root / layer.replace(".", "/") for layer in RULES]
    return sorted(p.relative_to(root) for folder in folders for p in folder.glob("*.py"))


def layer_of(path: Path) -> str:
    return ".".join(path.parent.parts)


def imports_of(path: Path, source: str) -> tuple[set[str], set[str]]:
    """Modules of this package, dotted from its root, and first names of other libraries that `source` imports."""
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            outside.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            above = list(path.parent.parts)[: len(path.parent.parts) - node.level + 1]
            stem = above + (node.module.split(".") if node.module else [])
            inside |= {".".join([*stem, alias.name]) for alias in node.names}
    return inside, outside - STANDARD


def layer_of_module(module: str) -> str:
    """Layer of a dotted module of this package: the longest that it starts with; a file in the root is its own."""
    known = [layer for layer in RULES if layer and (module + ".").startswith(layer + ".")]
    return max(known, key=len, default=module.split(".")[0])


def breaches(path: Path, source: str) -> list[str]:
    """What `source`, standing at `path`, imports against the rules."""
    rule = RULES[layer_of(path)]
    inside, outside = imports_of(path, source)
    allowed = rule.libraries | {BACKENDS.get(path.as_posix(), "")}
    upward = sorted(m for m in inside if layer_of_module(m) not in rule.layers)
    foreign = sorted(outside - allowed)
    return [f"{path} imports .{m}" for m in upward] + [f"{path} imports {m}" for m in foreign]


def test_every_package_has_a_rule(root):
    on_disk = {layer_of(p.relative_to(root)) for p in _packages(root)}
    assert on_disk == set(RULES)


def test_imports_go_one_way(root):
    files = shipped_files(root)
    assert len(files) > 20
    found = [b for path in files for b in breaches(path, (root / path).read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


def test_only_backends_and_nodes_name_a_base_library():
    named = set().union(*(rule.libraries for layer, rule in RULES.items() if layer != "nodes"))
    assert not named & BACKEND_LIBRARIES


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("model/x.py", "from ..signals.track import FaceTrack"),
        ("model/x.py", "from .backends.diffusers import Denoiser"),
        ("model/x.py", "from .backends import diffusers"),
        ("model/x.py", "from .. import training"),
        ("model/x.py", "import diffusers"),
        ("model/x.py", "def f():\n    import cv2"),
        ("model/backends/diffusers.py", "import comfy.samplers"),
        ("model/backends/comfy.py", "import diffusers"),
        ("signals/x.py", "import torch"),
        ("signals/x.py", "from ..model.config import AdapterConfig"),
        ("training/x.py", "from ..cli import app"),
        ("heads/x.py", "from ..training import cast"),
        ("evaluation/x.py", "from ..training.loop import train"),
        ("cli/x.py", "import nodes"),
        ("nodes/x.py", "import nodes"),
        ("nodes/x.py", "from ..cli import app"),
        ("nodes/x.py", "import cv2"),
        ("cli/x.py", "from svdp.model import config"),
        ("errors.py", "from .model import config"),
    ],
)
def test_planted_imports_are_found(path, line):
    assert len(breaches(Path(path), line)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("model/x.py", "from . import config\nfrom ..errors import UserError\nimport torch.nn as nn"),
        (
            "model/backends/diffusers.py",
            "import diffusers\nfrom ..streams import Streams\nfrom ...errors import UserError",
        ),
        ("heads/x.py", "from ..signals import track\nfrom . import fit"),
        ("cli/x.py", "from ..heads import bake\nfrom ..model.backends.diffusers import Denoiser"),
    ],
)
def test_downward_imports_are_allowed(path, line):
    assert breaches(Path(path), line) == []


def _packages(root: Path) -> list[Path]:
    tops = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in ("tests", "build")]
    return [root / "__init__.py", *(p for top in tops for p in top.rglob("__init__.py"))]
