"""What the nodes look like from outside, in files; run in an environment with ComfyUI, this writes them anew:

    COMFYUI_PATH=... python tests/comfy/schemas.py

`object_info.json` (the snapshot), `locales/en/nodeDefs.json`, and the tables in `web/docs`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = Path(__file__).with_name("object_info.json")
DOCS = ROOT / "web" / "docs"
FILE_LISTS = {"adapter_name", "name", "file"}  # their options are what lies on the disk


def node_classes() -> dict[str, Any]:
    """Node id -> class, from the extension as ComfyUI gets it."""
    from svdp import comfy_entrypoint

    async def load() -> list[Any]:
        extension = await comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(load())}


def snapshot(nodes: dict[str, Any]) -> dict[str, Any]:
    """Names, order, types, defaults and ranges of all inputs and outputs: what saved workflows depend on."""
    return json.loads(json.dumps({name: _shape_of(node) for name, node in nodes.items()}))


def _shape_of(node: Any) -> dict[str, Any]:
    info = node.GET_NODE_INFO_V1()
    inputs = {}
    for kind, of_kind in info["input"].items():
        for name, (what, *more) in of_kind.items():
            options = {k: v for k, v in (more[0] if more else {}).items() if k not in ("tooltip", "display_name")}
            if isinstance(what, list) or (name in FILE_LISTS and what == "COMBO"):
                what, options = (
                    "COMBO",
                    {**options, "options": what if isinstance(what, list) else options["options"]},
                )
            if name in FILE_LISTS and what == "COMBO":
                options["options"] = "files"
            inputs[name] = {"kind": kind, "type": what, **options}
    outputs = [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)]
    return {"display_name": info["display_name"], "category": info["category"], "inputs": inputs, "outputs": outputs}


def widgets(shape: dict[str, Any]) -> list[str]:
    """Names of the inputs that have a value in a saved workflow, in the order in which it lists the values."""
    simple = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
    return [name for name, entry in shape["inputs"].items() if entry["type"] in simple and not entry.get("forceInput")]


def locale(nodes: dict[str, Any]) -> dict[str, Any]:
    """The English texts in the form in which ComfyUI reads translations."""
    texts = {}
    for name, node in nodes.items():
        schema = node.GET_SCHEMA()
        texts[name] = {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs},
            "outputs": {
                str(n): {"name": o.display_name or o.id, "tooltip": o.tooltip} for n, o in enumerate(schema.outputs)
            },
        }
    return texts


def with_fields(inputs: list[Any]) -> list[Any]:
    """Inputs, each choice followed by the fields that belong to its options."""
    return [part for i in inputs for part in (i.get_all() if hasattr(i, "get_all") else [i])]


def tables(node: Any) -> str:
    """The tables of a help page."""
    schema = node.GET_SCHEMA()
    lines = ["## Inputs", "", "| name | type | default | |", "|---|---|---|---|"]
    for i in with_fields(schema.inputs):
        default = getattr(i, "default", None)
        shown = "" if default is None else f"{default:g}" if isinstance(default, float) else str(default).lower()
        kind = i.get_io_type().replace("COMFY_DYNAMICCOMBO_V3", "COMBO").replace(",", ", ")
        kind += ", optional" if i.optional else ""
        lines.append(f"| {i.display_name or i.id} | {kind} | {shown} | {i.tooltip} |")
    lines += ["", "## Outputs", "", "| name | type | |", "|---|---|---|"]
    lines += [f"| {o.display_name or o.id} | {o.get_io_type()} | {o.tooltip} |" for o in schema.outputs]
    return "\n".join(lines) + "\n"


def with_tables(page: str, node: Any) -> str:
    """A help page with its tables, from "## Inputs" to the next heading after "## Outputs", as they ought to be."""
    before, _, rest = page.partition("## Inputs\n")
    after = re.search(r"## Outputs\n.*?(?=^## )", rest, re.MULTILINE | re.DOTALL)
    tail = rest[after.end() :] if after else ""
    return f"{before.rstrip()}\n\n{tables(node)}" + (f"\n{tail}" if tail else "")


def as_json(data: Any) -> str:
    """Text of a JSON file."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write everything."""
    nodes = node_classes()
    SNAPSHOT.write_text(as_json(snapshot(nodes)), encoding="utf-8")
    english = ROOT / "locales" / "en" / "nodeDefs.json"
    english.parent.mkdir(parents=True, exist_ok=True)
    english.write_text(as_json(locale(nodes)), encoding="utf-8")
    for name, node in nodes.items():
        page = DOCS / f"{name}.md"
        old = page.read_text(encoding="utf-8") if page.exists() else f"# {node.GET_SCHEMA().display_name}\n"
        page.write_text(with_tables(old, node), encoding="utf-8")


if __name__ == "__main__":
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tests" / "comfy")]
    sys.path.append(os.environ.get("COMFYUI_PATH") or str(Path.home() / "comfy" / "ComfyUI"))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    main()
