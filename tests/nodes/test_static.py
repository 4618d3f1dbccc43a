"""What can be known of the nodes without ComfyUI: how tools that only read the source see them, and their pages."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def schemas(root: Path) -> dict[str, ast.ClassDef]:
    """Node id -> class, found as ComfyUI-Manager's scanner does: a direct io.ComfyNode with a literal id."""
    found = {}
    for path in sorted((root / "nodes").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and "io.ComfyNode" in map(ast.unparse, node.bases):
                found[_literal_id(node)] = node
    return found


def _literal_id(node: ast.ClassDef) -> str:
    for call in (n for n in ast.walk(node) if isinstance(n, ast.Call) and ast.unparse(n.func) == "io.Schema"):
        for keyword in call.keywords:
            if keyword.arg == "node_id" and isinstance(keyword.value, ast.Constant):
                return str(keyword.value.value)
    raise AssertionError(f"{node.name} has no literal node_id")


def test_ids_are_the_class_names_and_carry_the_prefix(schemas):
    assert len(schemas) == 26
    assert all(name == node.name and name.startswith("SVDP") for name, node in schemas.items())


def test_every_module_lists_its_nodes(root, schemas):
    listed = []
    for path in sorted((root / "nodes").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "NODES":
                listed += [ast.unparse(e) for e in statement.value.elts]  # type: ignore[attr-defined]
    assert sorted(listed) == sorted(schemas)


def test_schemas_and_heavy_work_are_apart(root, schemas):
    """Modules with schemas import nothing of the layers below until a node runs: ComfyUI starts without waiting."""
    for path in sorted((root / "nodes").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(n, ast.ClassDef) and n.name in schemas for n in tree.body):
            at_import = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.level]
            assert all(n.level == 1 for n in at_import), f"{path.name} imports a lower layer when ComfyUI starts"


def test_pages_and_texts_for_every_node_and_no_other(root, schemas):
    assert {p.stem for p in (root / "web" / "docs").glob("*.md")} == set(schemas)
    for language in ("en", "zh"):
        texts = json.loads((root / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
        assert set(texts) == set(schemas)


def test_translations_have_the_same_shape(root):
    english, chinese = (
        json.loads((root / "locales" / lang / "nodeDefs.json").read_text(encoding="utf-8")) for lang in ("en", "zh")
    )
    assert _shape(english) == _shape(chinese)
    leaves = list(_leaves(chinese))
    assert all(leaves) and sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in leaves) > 0.95 * len(leaves)


def _shape(value):
    return {k: _shape(v) for k, v in value.items()} if isinstance(value, dict) else None


def _leaves(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    else:
        yield value
