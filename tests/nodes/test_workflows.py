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
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
BYPASSED = 4  # mode of a node
Socket = tuple[str, int]  # number of a node, and which of its outputs


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_there_are_some():
    assert len(FILES) == 12


@pytest.fixture(params=FILES, ids=lambda p: p.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def workflow(path) -> dict[str, Any]:
    return read(path)


def subgraphs(workflow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By the type of the nodes that stand for them."""
    return {s["id"]: s for s in workflow.get("definitions", {}).get("subgraphs", [])}


def nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes that do something, those in subgraphs included."""
    found, boxes = list(workflow["nodes"]), subgraphs(workflow)
    found += [n for box in boxes.values() for n in box["nodes"]]
    return [n for n in found if n["type"] not in boxes and not n["type"].endswith("Note")]


def ours(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [n for n in nodes(workflow) if n["type"].startswith("SVDP")]


def flat(workflow: dict[str, Any]) -> dict[str, tuple[str, dict[str, Socket]]]:
    """Type and connected inputs of every node by number, subgraphs resolved: a node in one is `box:number`.

    A bypassed node is left out: each of its outputs is its first input of the same type.
    """
    boxes, found, outputs = subgraphs(workflow), dict[str, tuple[str, dict[str, Socket]]](), dict[Socket, Socket]()

    def walk(graph: dict[str, Any], prefix: str, entries: list[Socket | None]) -> list[Socket | None]:
        """Add a graph's nodes; what its outputs are, given what its inputs are."""
        links = [link if isinstance(link, dict) else _named(link) for link in graph["links"]]
        by_id = {link["id"]: link for link in links}

        def origin(link: dict[str, Any]) -> Socket | None:
            if link["origin_id"] == -10:
                return entries[link["origin_slot"]]
            socket = (f"{prefix}{link['origin_id']}", link["origin_slot"])
            return outputs.get(socket, socket)

        for node in sorted(graph["nodes"], key=lambda n: n["order"]):
            number = f"{prefix}{node['id']}"
            drawn = {i["name"]: None if i.get("link") is None else origin(by_id[i["link"]])
                     for i in node.get("inputs", [])}  # fmt: skip
            if node.get("mode") == BYPASSED:
                for slot, output in enumerate(node.get("outputs", [])):
                    same = [i["name"] for i in node["inputs"] if i["type"] == output["type"] and i.get("link")]
                    if same and (through := drawn[same[0]]) is not None:
                        outputs[number, slot] = through
            elif node["type"] in boxes:
                given = walk(boxes[node["type"]], f"{number}:", list(drawn.values()))
                outputs.update({(number, slot): socket for slot, socket in enumerate(given) if socket is not None})
            elif not node["type"].endswith("Note"):
                found[number] = node["type"], {k: v for k, v in drawn.items() if v is not None}
        given = [link for link in links if link["target_id"] == -20]
        return [origin(link) for link in sorted(given, key=lambda link: link["target_slot"])]

    walk(workflow, "", [])
    return found


def _named(link: list[Any]) -> dict[str, Any]:
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return dict(zip(names, link, strict=True))


def test_form_notes_and_companions(path, workflow):
    assert workflow["version"] == 0.4
    assert any(n["type"] == "MarkdownNote" and len(n["widgets_values"][0]) > 200 for n in workflow["nodes"])
    assert (path.parent / "api" / path.name).is_file()
    assert path.with_suffix(".jpg").is_file()
    assert path.with_suffix(".jpg").stat().st_size < 200_000


def test_only_core_nodes_and_ours(workflow):
    packs = {n["properties"].get("cnr_id") for n in nodes(workflow)}
    assert packs == {"comfy-core", "video-driven-portraits"}
    assert {n["properties"]["cnr_id"] for n in ours(workflow)} == {"video-driven-portraits"}


def test_widget_values_stand_where_the_nodes_expect_them(workflow):
    """Values are saved by position: their names, as the front end wrote them down, against the nodes as they are."""
    shapes = read(SNAPSHOT)
    for node in ours(workflow):
        inputs = shapes[node["type"]]["inputs"]
        names = [n for n, e in inputs.items() if e["type"] in WIDGETS]
        controls = {CONTROL, *(e[CONTROL] for e in inputs.values() if isinstance(e.get(CONTROL), str))}
        saved = [n for n in node.get("widgets_values_named", {}) if n not in controls and "." not in n]
        assert saved == names[: len(saved)], f"{node['type']} {node['id']}"
        for name, value in node.get("widgets_values_named", {}).items():
            entry = inputs.get(name, {})
            if isinstance(entry.get("options"), list):
                assert value in [o["key"] if isinstance(o, dict) else o for o in entry["options"]]
            elif entry.get("type") in ("INT", "FLOAT"):
                assert entry["min"] <= value <= entry["max"]


def test_links_are_those_of_the_twin(path, workflow):
    api = read(path.parent / "api" / path.name)
    drawn = flat(workflow)
    assert {i: kind for i, (kind, _) in drawn.items()} == {i: n["class_type"] for i, n in api.items()}
    for number, (kind, inputs) in drawn.items():
        asked = {k: tuple(v) for k, v in api[number]["inputs"].items() if isinstance(v, list)}
        assert inputs == asked, f"{kind} {number}"


def test_the_head_of_workflow_5_has_the_eyes_of_the_second_driver():
    """What the posed head does and what the pixels show must be of the same driver, region by region."""
    drawn = flat(read(ROOT / "workflows" / "5-eyes-and-mouth-of-two-drivers.json"))

    def crop_of(motion: Socket) -> Socket:
        return drawn[motion[0]][1]["driver_track"]

    (pose,) = (inputs for kind, inputs in drawn.values() if kind == "SVDPPosePortrait")
    mix = drawn[pose["driver_motion"][0]][1]
    (composite,) = (inputs for kind, inputs in drawn.values() if kind == "ImageCompositeMasked")
    first, second = (drawn[composite[name][0]][1]["track"] for name in ("destination", "source"))
    assert (crop_of(mix["head"]), crop_of(mix["eyes"])) == (first, second) and "mouth" not in mix


def test_links_through_subgraphs_are_followed():
    inner = {"id": "box", "links": [{"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 5, "target_slot": 0},
                                    {"id": 2, "origin_id": 5, "origin_slot": 1, "target_id": -20, "target_slot": 0}],
             "nodes": [{"id": 5, "type": "B", "order": 0, "inputs": [{"name": "b", "link": 1}]}]}  # fmt: skip
    whole = {"definitions": {"subgraphs": [inner]}, "links": [[1, 1, 0, 2, 0, "X"], [2, 2, 0, 3, 0, "X"]],
             "nodes": [{"id": 1, "type": "A", "order": 0},
                       {"id": 2, "type": "box", "order": 1, "inputs": [{"name": "in", "link": 1}]},
                       {"id": 3, "type": "C", "order": 2, "inputs": [{"name": "c", "link": 2}]}]}  # fmt: skip
    assert flat(whole) == {"1": ("A", {}), "2:5": ("B", {"b": ("1", 0)}), "3": ("C", {"c": ("2:5", 1)})}


def test_bypassed_nodes_are_passed_by():
    output = {"type": "X"}
    whole = {"links": [[1, 1, 0, 2, 1, "X"], [2, 2, 0, 3, 0, "X"]],
             "nodes": [{"id": 1, "type": "A", "order": 0, "outputs": [output]},
                       {"id": 2, "type": "B", "order": 1, "mode": BYPASSED, "outputs": [output],
                        "inputs": [{"name": "z", "type": "Z", "link": None},
                                   {"name": "b", "type": "X", "link": 1}]},
                       {"id": 3, "type": "C", "order": 2,
                        "inputs": [{"name": "c", "type": "X", "link": 2}]}]}  # fmt: skip
    assert flat(whole) == {"1": ("A", {}), "3": ("C", {"c": ("1", 0)})}


def test_models_that_are_not_bundled_have_a_link(workflow):
    for node in nodes(workflow):
        for value in node.get("widgets_values") or []:
            if str(value).endswith(".safetensors") and not str(value).startswith(("mini_", "svdp_")):
                models = {m["name"]: m for m in node["properties"].get("models", [])}
                assert models[value]["url"].startswith("https://huggingface.co/") and models[value]["directory"]
