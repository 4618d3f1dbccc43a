"""The example workflows as files: whole, of the form that ComfyUI's front end saves, and equal to their API twins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "workflows").glob("*.json"))
SNAPSHOT = ROOT / "tests" / "comfy" / "object_info.json"
CONTROL = "control_after_generate"  # a widget of the front end alone


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_there_are_some():
    assert len(FILES) == 11


@pytest.fixture(params=FILES, ids=lambda p: p.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def workflow(path) -> dict[str, Any]:
    return read(path)


def ours(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [n for n in workflow["nodes"] if n["type"].startswith("SVDP")]


def test_form_notes_and_companions(path, workflow):
    assert workflow["version"] == 0.4
    assert any(n["type"] == "MarkdownNote" and len(n["widgets_values"][0]) > 200 for n in workflow["nodes"])
    assert (path.parent / "api" / path.name).is_file()
    assert path.with_suffix(".jpg").is_file()
    assert path.with_suffix(".jpg").stat().st_size < 200_000


def test_only_core_nodes_and_ours(workflow):
    packs = {n["properties"].get("cnr_id") for n in workflow["nodes"] if not n["type"].endswith("Note")}
    assert packs == {"comfy-core", "video-driven-portraits"}
    assert {n["properties"]["cnr_id"] for n in ours(workflow)} == {"video-driven-portraits"}


def test_widget_values_stand_where_the_nodes_expect_them(workflow):
    """Values are saved by position: their names, as the front end wrote them down, against the nodes as they are."""
    shapes = read(SNAPSHOT)
    for node in ours(workflow):
        inputs = shapes[node["type"]]["inputs"]
        names = [n for n, e in inputs.items() if e["type"] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")]
        saved = [n for n in node.get("widgets_values_named", {}) if n != CONTROL]
        assert saved == names[: len(saved)], f"{node['type']} {node['id']}"
        for name, value in node.get("widgets_values_named", {}).items():
            entry = inputs.get(name, {})
            if isinstance(entry.get("options"), list):
                assert value in entry["options"]
            elif entry.get("type") in ("INT", "FLOAT"):
                assert entry["min"] <= value <= entry["max"]


def test_links_are_those_of_the_twin(path, workflow):
    api = read(path.parent / "api" / path.name)
    links = {link[0]: (str(link[1]), link[2]) for link in workflow["links"]}
    nodes = {str(n["id"]): n for n in workflow["nodes"] if not n["type"].endswith("Note")}
    assert {i: n["type"] for i, n in nodes.items()} == {i: n["class_type"] for i, n in api.items()}
    for number, node in nodes.items():
        drawn = {i["name"]: links[i["link"]] for i in node.get("inputs", []) if i.get("link") is not None}
        asked = {k: tuple(v) for k, v in api[number]["inputs"].items() if isinstance(v, list)}
        assert drawn == asked, f"{node['type']} {number}"


def test_models_that_are_not_bundled_have_a_link(workflow):
    for node in workflow["nodes"]:
        for value in node.get("widgets_values") or []:
            if str(value).endswith(".safetensors") and not str(value).startswith(("mini_", "svdp_")):
                models = {m["name"]: m for m in node["properties"].get("models", [])}
                assert models[value]["url"].startswith("https://huggingface.co/") and models[value]["directory"]
