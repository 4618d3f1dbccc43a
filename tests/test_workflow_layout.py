"""Example workflows can be read: few nodes at a time, each in a titled group, nothing over anything else."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
MOST = 14  # nodes that are visible together
TITLE, GROUP_TITLE = 30, 34  # pixels
NARROWEST = 200

Box = tuple[float, float, float, float]  # left, top, right, bottom


def graphs(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The workflow and the subgraphs in it, by name."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    inside = whole.get("definitions", {}).get("subgraphs", [])
    return [(path.stem, whole), *((f"{path.stem}: {s['name']}", s) for s in inside)]


GRAPHS = [pair for path in (*WORKFLOWS, *BLUEPRINTS) for pair in graphs(path)]
everywhere = pytest.mark.parametrize("graph", [g for _, g in GRAPHS], ids=[name for name, _ in GRAPHS])


def node_box(node: dict[str, Any]) -> Box:
    """With its title."""
    (x, y), (w, h) = node["pos"], node["size"]
    return x, y - TITLE, x + w, y + h


def group_box(group: dict[str, Any]) -> Box:
    x, y, w, h = group["bounding"]
    return x, y, x + w, y + h


def overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def inside(a: Box, b: Box) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


def faults(graph: dict[str, Any]) -> list[str]:
    """Where a reader would stumble."""
    nodes, groups = graph["nodes"], graph["groups"]
    boxes = {n["id"]: node_box(n) for n in nodes}
    names = {n["id"]: n.get("title") or n["type"] for n in nodes}
    found = [f"{len(nodes)} nodes"] if len(nodes) > MOST else []
    found += [f"{names[a]} over {names[b]}" for a, b in combinations(boxes, 2) if overlap(boxes[a], boxes[b])]
    found += [f"groups {a['title']} and {b['title']}" for a, b in combinations(groups, 2)
              if overlap(group_box(a), group_box(b))]  # fmt: skip
    for n in nodes:
        around = [g for g in groups if overlap(boxes[n["id"]], group_box(g))]
        if n["type"] == "MarkdownNote":
            found += [f"the note over group {g['title']}" for g in around]
        elif len(around) != 1 or not inside(boxes[n["id"]], _below_title(around[0])):
            found.append(f"{names[n['id']]} is not in one group")
        if n["size"][0] < NARROWEST:
            found.append(f"{names[n['id']]} is {n['size'][0]} pixels wide")
    return found


def _below_title(group: dict[str, Any]) -> Box:
    left, top, right, bottom = group_box(group)
    return left, top + GROUP_TITLE, right, bottom


@everywhere
def test_it_can_be_read(graph):
    assert faults(graph) == []


@everywhere
def test_groups_have_titles_and_colours(graph):
    assert graph["groups"] and all(g["title"] and g["color"].startswith("#") for g in graph["groups"])


@everywhere
def test_two_nodes_of_a_kind_are_told_apart_by_their_titles(graph):
    told = [(n["type"], n.get("title")) for n in graph["nodes"] if n["type"].startswith("SVDP")]
    assert len(told) == len(set(told))
    tracks = [n for n in graph["nodes"] if n["type"] in ("SVDPFaceTrack", "SVDPFaceCrop")]
    assert all(" of " in n.get("title", "") for n in tracks), "whose face it is"


def test_planted_faults_are_found():
    def node(number: int, x: float) -> dict[str, Any]:
        return {"id": number, "type": "X", "title": f"n{number}", "pos": [x, 100], "size": [300, 100]}

    group = {"title": "g", "bounding": [0, 0, 1000, 300], "color": "#fff"}
    assert faults({"nodes": [node(1, 20), node(2, 400)], "groups": [group]}) == []
    assert faults({"nodes": [node(1, 20), node(2, 310)], "groups": [group]}) == ["n1 over n2"]
    assert faults({"nodes": [node(1, 900)], "groups": [group]}) == ["n1 is not in one group"]
    assert faults({"nodes": [node(i, 0) for i in range(15)], "groups": []})[0] == "15 nodes"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_begins_with_a_note_and_has_a_thumbnail_and_a_twin(path):
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert [n for n in whole["nodes"] if n["type"] == "MarkdownNote"]
    assert path.with_suffix(".jpg").is_file() and (path.parent / "api" / path.name).is_file()


def test_subgraphs_of_the_workflows_are_blueprints():
    published = {s["id"]: s["name"] for path in BLUEPRINTS for _, s in graphs(path)[1:]}
    used = {s["id"]: s["name"] for path in WORKFLOWS for _, s in graphs(path)[1:]}
    assert used == {i: published.get(i) for i in used}
    assert {p.stem for p in BLUEPRINTS} == set(published.values())


def test_the_first_workflow_is_an_app():
    whole = json.loads(WORKFLOWS[0].read_text(encoding="utf-8"))
    kinds = {n["id"]: n for n in whole["nodes"]}
    data = whole["extra"]["linearData"]
    shown = [(kinds[i]["type"], w) for i, w in data["inputs"]]
    assert ("SVDPAnimate", "seed") in shown
    assert all(w in kinds[i]["widgets_values_named"] for i, w in data["inputs"])
    assert [kinds[i]["type"] for i in data["outputs"]] == ["SaveVideo"]
