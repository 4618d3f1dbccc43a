"""Names of SD3 weights: diffusers' and the native (single-file, ComfyUI) form, converted by one table.

`{}` stands for the block number. Native files hold q, k, v as one tensor, and shift before scale in the final
modulations where diffusers has scale before shift.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import UserError
from .config import BaseArchitecture
from .files import Shaped

Named = TypeVar("Named", bound=Shaped)
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
_PLAIN = {  # diffusers module -> native module, same tensors
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
    "transformer_blocks.{}.norm1.linear": "joint_blocks.{}.x_block.adaLN_modulation.1",
    "transformer_blocks.{}.norm1_context.linear": "joint_blocks.{}.context_block.adaLN_modulation.1",
    "transformer_blocks.{}.attn.to_out.0": "joint_blocks.{}.x_block.attn.proj",
    "transformer_blocks.{}.attn.to_add_out": "joint_blocks.{}.context_block.attn.proj",
    "transformer_blocks.{}.attn2.to_out.0": "joint_blocks.{}.x_block.attn2.proj",
    "transformer_blocks.{}.attn.norm_q": "joint_blocks.{}.x_block.attn.ln_q",
    "transformer_blocks.{}.attn.norm_k": "joint_blocks.{}.x_block.attn.ln_k",
    "transformer_blocks.{}.attn.norm_added_q": "joint_blocks.{}.context_block.attn.ln_q",
    "transformer_blocks.{}.attn.norm_added_k": "joint_blocks.{}.context_block.attn.ln_k",
    "transformer_blocks.{}.attn2.norm_q": "joint_blocks.{}.x_block.attn2.ln_q",
    "transformer_blocks.{}.attn2.norm_k": "joint_blocks.{}.x_block.attn2.ln_k",
    "transformer_blocks.{}.ff.net.0.proj": "joint_blocks.{}.x_block.mlp.fc1",
    "transformer_blocks.{}.ff.net.2": "joint_blocks.{}.x_block.mlp.fc2",
    "transformer_blocks.{}.ff_context.net.0.proj": "joint_blocks.{}.context_block.mlp.fc1",
    "transformer_blocks.{}.ff_context.net.2": "joint_blocks.{}.context_block.mlp.fc2",
}
_FUSED = {  # native module -> the three diffusers modules that it joins
    "joint_blocks.{}.x_block.attn.qkv": tuple(f"transformer_blocks.{{}}.attn.to_{c}" for c in "qkv"),
    "joint_blocks.{}.context_block.attn.qkv": tuple(f"transformer_blocks.{{}}.attn.add_{c}_proj" for c in "qkv"),
    "joint_blocks.{}.x_block.attn2.qkv": tuple(f"transformer_blocks.{{}}.attn2.to_{c}" for c in "qkv"),
}
_TABLE = ("pos_embed.pos_embed", "pos_embed")
_SWAPPED_FINAL = ("norm_out.linear", "final_layer.adaLN_modulation.1")


def strip_prefix(state: Mapping[str, Named]) -> dict[str, Named]:
    """The transformer's own tensors out of a checkpoint that may hold an autoencoder and text encoders too."""
    prefix = prefix_of(state)
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def prefix_of(state: Mapping[str, Shaped]) -> str:
    """What the names of a checkpoint's transformer begin with. Raises `UserError` if it holds no SD3-family one."""
    for prefix in PREFIXES:
        if any(k.startswith((prefix + "joint_blocks.", prefix + "transformer_blocks.")) for k in state):
            return prefix
    raise UserError(
        "no SD3-family transformer in this file: neither joint_blocks.* nor transformer_blocks.* is there; "
        "give a Stable Diffusion 3 or 3.5 checkpoint"
    )


def is_native(state: Mapping[str, Shaped]) -> bool:
    """Whether names are the native ones (after `strip_prefix`)."""
    return any(k.startswith("joint_blocks.") for k in state)


def to_native(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers names -> native names. Every tensor is new or a view: the input is not written to.

    Raises `UserError` naming tensors that the table does not know.
    """
    left = dict(state)
    depth = _depth(state, "transformer_blocks")
    result = {_TABLE[1]: left.pop(_TABLE[0])}
    for theirs, ours in _expand(_PLAIN, depth):
        for end in (".weight", ".bias"):
            if theirs + end in left:
                result[ours + end] = left.pop(theirs + end)
    for i in range(depth):
        for native, parts in _FUSED.items():
            for end in (".weight", ".bias"):
                names = [p.format(i) + end for p in parts]
                if names[0] in left:
                    result[native.format(i) + end] = torch.cat([left.pop(n) for n in names])
    for end in (".weight", ".bias"):
        result[_SWAPPED_FINAL[1] + end] = _swap_halves(left.pop(_SWAPPED_FINAL[0] + end))
        last = f"joint_blocks.{depth - 1}.context_block.adaLN_modulation.1{end}"
        result[last] = _swap_halves(result[last])
    _refuse_rest(left)
    return result


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Native names -> diffusers names, inverse of `to_native`."""
    left = dict(state)
    depth = _depth(state, "joint_blocks")
    result = {_TABLE[0]: left.pop(_TABLE[1])}
    for ours, native in _expand(_PLAIN, depth):
        for end in (".weight", ".bias"):
            if native + end in left:
                result[ours + end] = left.pop(native + end)
    for i in range(depth):
        for native, parts in _FUSED.items():
            for end in (".weight", ".bias"):
                if (name := native.format(i) + end) in left:
                    thirds = left.pop(name).chunk(3)
                    result |= {p.format(i) + end: t.clone() for p, t in zip(parts, thirds, strict=True)}
    for end in (".weight", ".bias"):
        result[_SWAPPED_FINAL[0] + end] = _swap_halves(left.pop(_SWAPPED_FINAL[1] + end))
        last = f"transformer_blocks.{depth - 1}.norm1_context.linear{end}"
        result[last] = _swap_halves(result[last])
    _refuse_rest(left)
    return result


def native_layer(name: str) -> tuple[str, int | None]:
    """Native layer of a diffusers layer; the number is its third (q 0, k 1, v 2) where the native one joins three.

    Raises `UserError` if an SD3-family transformer has no such layer, or one whose weight is not simply renamed.
    """
    match = re.match(r"transformer_blocks\.(\d+)\.", name)
    block = match.group(1) if match else ""
    stem = name.replace(f".{block}.", ".{}.", 1) if match else name
    if stem in _PLAIN:
        return _PLAIN[stem].format(block), None
    for native, parts in _FUSED.items():
        if stem in parts:
            return native.format(block), parts.index(stem)
    raise UserError(f"an SD3-family transformer has no layer {name} that could be adapted")


_PROBES = (  # tensors whose shapes tell the architecture: native name, diffusers name, dimensions
    (("x_embedder.proj.weight", "pos_embed.proj.weight"), 4),
    (("pos_embed", "pos_embed.pos_embed"), 3),
    (("context_embedder.weight", "context_embedder.weight"), 2),
    (("y_embedder.mlp.0.weight", "time_text_embed.text_embedder.linear_1.weight"), 2),
)
_HEAD = ("joint_blocks.0.x_block.attn.ln_q.weight", "transformer_blocks.0.attn.norm_q.weight")
_DUAL = ("joint_blocks.{}.x_block.attn2.qkv.weight", "transformer_blocks.{}.attn2.to_q.weight")


def architecture_of(state: Mapping[str, Shaped]) -> BaseArchitecture:
    """Read the shape of the base from tensors of native or diffusers names, or from a header.

    Raises `UserError` naming a tensor that is missing, or of which the shape cannot be.
    """
    form = 0 if is_native(state) else 1
    shapes = []
    for names, dimensions in _PROBES:
        name = names[form]
        if name not in state:
            raise UserError(f"the checkpoint lacks {name!r}: it is not a whole SD3-family transformer")
        shape = tuple(state[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise UserError(f"{name} is {shape}, expected {dimensions} dimensions: this is no SD3-family base")
        shapes.append(shape)
    (width, channels, patch, _), table, context, pooled = shapes
    depth = _depth(state, ("joint_blocks", "transformer_blocks")[form])
    head = tuple(state[_HEAD[form]].shape) if _HEAD[form] in state else None
    if head is not None and (len(head) != 1 or not head[0]):
        raise UserError(f"{_HEAD[form]} is {head}, expected one dimension: this is no SD3-family base")
    return BaseArchitecture(
        width=width,
        depth=depth,
        heads=max(1, width // (head[0] if head is not None else 64)),
        dual_blocks=tuple(i for i in range(min(depth, 1024)) if _DUAL[form].format(i) in state),
        channels=channels,
        patch=patch,
        table_size=round(table[1] ** 0.5),
        context_dim=context[1],
        pooled_dim=pooled[1],
        qk_norm=head is not None,
    )


def _expand(table: Mapping[str, str], depth: int) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for a, b in table.items():
        pairs += [(a.format(i), b.format(i)) for i in range(depth)] if "{}" in a else [(a, b)]
    return pairs


def _depth(state: Mapping[str, Shaped], stem: str) -> int:
    numbers = [int(m.group(1)) for k in state if (m := re.match(rf"{stem}\.([0-9]{{1,9}})\.", k))]
    if not numbers:
        raise UserError(f"the checkpoint holds no {stem}: it is not an SD3-family transformer")
    return max(numbers) + 1


def _swap_halves(t: Tensor) -> Tensor:
    first, second = t.chunk(2)
    return torch.cat([second, first])


def _refuse_rest(left: Mapping[str, Tensor]) -> None:
    if left:
        raise UserError(f"tensors that an SD3-family transformer does not have: {', '.join(sorted(left)[:5])}")
