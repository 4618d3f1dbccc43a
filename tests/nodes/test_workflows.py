"""The example workflows as files: whole, of the form that ComfyUI's front end saves, and equal to their API twins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "workflows").glob("*.json"))
SNAPSHOT = ROOT / "tests" / "comfy" / "object_info.json"
CONTROLS = {"control_after_generate", "fixed"}  # a widget of the front end alone, by its name or its value
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
INPUTS, OUTPUTS = -10, -20  # where links of a subgraph come in and go out


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


class Graph:
    """A workflow or a subgraph in it, with what it stands in."""

    def __init__(
        self, whole: dict[str, Any], own: dict[str, Any], prefix: str = "", outer: Graph | None = None
    ) -> None:
        self.whole, self.prefix, self.outer = whole, prefix, outer
        self.nodes = {n["id"]: n for n in own["nodes"]}
        self.links = [list(k.values())[:5] if isinstance(k, dict) else k[:5] for k in own["links"]]
        kinds = {g["id"]: g for g in whole.get("definitions", {}).get("subgraphs", [])}
        self.inner = {
            n: Graph(whole, kinds[node["type"]], f"{prefix}{n}:", self)
            for n, node in self.nodes.items()
            if node["type"] in kinds
        }

    def flat(self) -> dict[str, dict[str, Any]]:
        """All nodes with those of the subgraphs, by the id that a prompt gives them; no notes."""
        found = {
            f"{self.prefix}{n}": node
            for n, node in self.nodes.items()
            if n not in self.inner and not node["type"].endswith("Note")
        }
        for graph in self.inner.values():
            found |= graph.flat()
        return found

    def comes_from(self, link: int | None) -> tuple[str, int] | None:
        """The node and output at a link's beginning, through the borders of subgraphs."""
        for number, origin, slot, *_ in self.links:
            if number != link:
                continue
            if origin == INPUTS:
                assert self.outer is not None
                here = self.outer.nodes[int(self.prefix.rstrip(":").rsplit(":")[-1])]
                return self.outer.comes_from(here["inputs"][slot].get("link"))
            if origin in self.inner:
                inner = self.inner[origin]
                leaving = next(k[0] for k in inner.links if k[3] == OUTPUTS and k[4] == slot)
                return inner.comes_from(leaving)
            return f"{self.prefix}{origin}", slot
        return None

    def drawn(self) -> dict[str, dict[str, tuple[str, int]]]:
        """Node -> input -> where it comes from."""
        found = {}
        for n, node in self.nodes.items():
            if n not in self.inner:
                ends = {i["name"]: self.comes_from(i.get("link")) for i in node.get("inputs", [])}
                found[f"{self.prefix}{n}"] = {name: end for name, end in ends.items() if end is not None}
        for graph in self.inner.values():
            found |= graph.drawn()
        return found


def ours(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [n for n in Graph(workflow, workflow).flat().values() if n["type"].startswith("SVDP")]


def test_form_notes_and_companions(path, workflow):
    assert workflow["version"] == 0.4
    assert any(n["type"] == "MarkdownNote" and len(n["widgets_values"][0]) > 200 for n in workflow["nodes"])
    assert (path.parent / "api" / path.name).is_file()
    assert path.with_suffix(".jpg").is_file()
    assert path.with_suffix(".jpg").stat().st_size < 200_000


def test_only_core_nodes_and_ours(workflow):
    packs = {n["properties"].get("cnr_id") for n in Graph(workflow, workflow).flat().values()}
    assert packs == {"comfy-core", "video-driven-portraits"}
    assert {n["properties"]["cnr_id"] for n in ours(workflow)} == {"video-driven-portraits"}


def test_widget_values_stand_where_the_nodes_expect_them(workflow):
    """Values are saved by position: their names, as the front end wrote them down, against the nodes as they are."""
    shapes = read(SNAPSHOT)
    for node in ours(workflow):
        inputs = shapes[node["type"]]["inputs"]
        names = [n for n, e in inputs.items() if e["type"] in WIDGETS]
        saved = [n for n in node.get("widgets_values_named", {}) if n not in CONTROLS and "." not in n]
        assert saved == names[: len(saved)], f"{node['type']} {node['id']}"
        for name, value in node.get("widgets_values_named", {}).items():
            entry = inputs.get(name, {})
            if isinstance(entry.get("options"), list):
                assert value in [o["key"] if isinstance(o, dict) else o for o in entry["options"]]
            elif entry.get("type") in ("INT", "FLOAT"):
                assert entry["min"] <= value <= entry["max"]


def test_links_are_those_of_the_twin(path, workflow):
    api = read(path.parent / "api" / path.name)
    graph = Graph(workflow, workflow)
    nodes, drawn = graph.flat(), graph.drawn()
    assert {i: n["type"] for i, n in nodes.items()} == {i: n["class_type"] for i, n in api.items()}
    for number, node in nodes.items():
        asked = {k: tuple(v) for k, v in api[number]["inputs"].items() if isinstance(v, list)}
        assert drawn[number] == asked, f"{node['type']} {number}"


def test_models_that_are_not_bundled_have_a_link(workflow):
    for node in Graph(workflow, workflow).flat().values():
        for value in node.get("widgets_values") or []:
            if str(value).endswith(".safetensors") and not str(value).startswith(("mini_", "svdp_")):
                models = {m["name"]: m for m in node["properties"].get("models", [])}
                assert models[value]["url"].startswith("https://huggingface.co/") and models[value]["directory"]
