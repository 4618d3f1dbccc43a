"""The pack in real ComfyUI: it loads, says what it does everywhere, and keeps what saved workflows depend on."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from .schemas import SNAPSHOT, as_json, locale, node_classes, snapshot, widgets, with_fields, with_tables

RELEASED = Path(__file__).with_name("released_inputs.json")
CORE_TYPES = {"FACE_LANDMARKS"}


@pytest.fixture(scope="module")
def nodes(comfy_on_path) -> dict[str, Any]:
    """Node id -> class."""
    return node_classes()


def test_comfyui_loads_it_from_any_folder_without_a_warning(comfy_on_path, root, tmp_path, caplog):
    comfy_nodes = importlib.import_module("nodes")
    pack = tmp_path / "my nodes.v1" / "video-driven-portraits"
    pack.parent.mkdir()
    pack.symlink_to(root)
    heavy = [m for m in ("mediapipe", "diffusers", "peft") if m not in sys.modules]
    with caplog.at_level(logging.WARNING):
        began = time.process_time()
        assert asyncio.run(comfy_nodes.load_custom_node(str(pack)))
        spent = time.process_time() - began
    assert [r.message for r in caplog.records] == []
    assert spent < 1 and not [m for m in heavy if m in sys.modules]
    assert comfy_nodes.EXTENSION_WEB_DIRS["video-driven-portraits"] == str(pack / "web")
    ours = {
        n for n, c in comfy_nodes.NODE_CLASS_MAPPINGS.items() if c.__module__.startswith(str(pack).replace(".", "_x_"))
    }
    assert ours == set(node_classes())


def test_ids_and_types_are_ours_alone(nodes):
    from comfy_api.latest import io

    known = {t.io_type for t in vars(io).values() if hasattr(t, "io_type")} | CORE_TYPES
    for name, node in nodes.items():
        schema = node.GET_SCHEMA()
        types = {t for i in (*with_fields(schema.inputs), *schema.outputs) for t in i.get_io_type().split(",")}
        assert name.startswith("SVDP") and all(t.startswith("SVDP_") for t in types - known)


def test_everything_is_explained(nodes):
    for name, node in nodes.items():
        schema = node.GET_SCHEMA()
        assert schema.display_name.endswith("(SVDP)") and schema.category and len(schema.search_aliases) > 2
        assert len(schema.description) > 60, name
        for part in (*with_fields(schema.inputs), *schema.outputs):
            assert part.tooltip and len(part.tooltip) > 12, f"{name}: {part.id} has no tooltip"
        assert len({o.id for o in schema.outputs}) == len(schema.outputs)


def test_numbers_have_a_default_inside_their_range(nodes):
    for name, shape in snapshot(nodes).items():
        for key, entry in shape["inputs"].items():
            if entry["type"] in ("INT", "FLOAT"):
                assert entry["min"] <= entry["default"] <= entry["max"], f"{name}: {key}"
            if entry["type"] == "COMBO" and entry["options"] != "files":
                assert entry.get("default", entry["options"][0]) in entry["options"], f"{name}: {key}"


def test_pages_show_the_inputs_and_outputs_as_they_are(nodes, root):
    for name, node in nodes.items():
        page = (root / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert with_tables(page, node) == page, f"{name}.md: run tests/comfy/schemas.py"
        assert len(page.partition("## Inputs")[0]) > 140 and page.startswith(f"# {node.GET_SCHEMA().display_name}\n")


def test_english_texts_are_those_of_the_nodes(nodes, root):
    assert (root / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8") == as_json(locale(nodes))


def test_chinese_texts_name_every_input_and_output(nodes, root):
    chinese = json.loads((root / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    shapes = {name: (set(t["inputs"]), set(t["outputs"])) for name, t in locale(nodes).items()}
    assert {name: (set(t["inputs"]), set(t["outputs"])) for name, t in chinese.items()} == shapes


def test_deprecated_nodes_are_still_there_and_no_workflow_uses_them(nodes, root):
    old = {name for name, node in nodes.items() if node.GET_SCHEMA().is_deprecated}
    assert old == {"SVDPAnimatePortrait", "SVDPSignalFusion", "SVDPSegmentedSampler"}
    for path in (root / "workflows").glob("*.json"):
        assert not [name for name in old if f'"{name}"' in path.read_text(encoding="utf-8")], path.name


def test_snapshot(nodes):
    """A change here changes what saved workflows mean: append inputs only, and raise the version."""
    assert snapshot(nodes) == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def test_inputs_are_only_appended(nodes):
    """Saved workflows list widget values by position: what was released keeps its place."""
    released = json.loads(RELEASED.read_text(encoding="utf-8"))
    now = snapshot(nodes)
    assert set(released) <= set(now)
    for name, old in released.items():
        assert widgets(now[name])[: len(old["widgets"])] == old["widgets"], f"{name}: a widget moved"
        assert [o[0] for o in now[name]["outputs"]][: len(old["outputs"])] == old["outputs"], f"{name}: an output moved"
        assert set(old["sockets"]) <= set(now[name]["inputs"]), f"{name}: an input is gone"


def test_bundled_files_are_in_the_ordinary_lists(nodes):
    import folder_paths

    for key, ending in (
        ("diffusion_models", "base"),
        ("vae", "autoencoder"),
        ("svdp", "adapter"),
    ):
        assert f"mini_{ending}.safetensors" in folder_paths.get_filename_list(key)
    assert not [n for n in folder_paths.get_filename_list("checkpoints") if n.startswith("mini_")]
    options = nodes["SVDPLoadAdapter"].GET_NODE_INFO_V1()["input"]["required"]["adapter_name"]
    assert "mini_adapter.safetensors" in str(options)


def test_core_loaders_read_the_bundled_model(nodes):
    comfy_nodes = importlib.import_module("nodes")
    (model,) = comfy_nodes.UNETLoader().load_unet("mini_base.safetensors", "default")
    assert type(model.model).__name__ == "SD3"
    (vae,) = comfy_nodes.VAELoader().load_vae("mini_autoencoder.safetensors")
    picture = torch.linspace(0, 1, 64).reshape(1, 1, 64, 1).expand(1, 64, 64, 3)
    with torch.no_grad():
        latent = vae.encode(picture)
        again = vae.decode(latent)
    assert latent.shape == (1, 16, 8, 8)
    assert float((again - picture).abs().mean()) < 0.06


def test_no_javascript_and_no_links_outside(root):
    for path in (root / "web").rglob("*"):
        assert path.suffix not in (".js", ".html")
        if path.suffix == ".md":
            assert not re.findall(r"http://\S+", path.read_text(encoding="utf-8"))


def test_help_pages_wrap(root):
    """The help panel is narrow: lines of code would be cut there, and so would words that do not end."""
    for path in (root / "web" / "docs").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"^(?: {4}|\t|```).*", text, re.MULTILINE), f"{path.name}: write formulas as text"
        assert max(map(len, re.findall(r"[^\s|-]+", text))) < 40, path.name
