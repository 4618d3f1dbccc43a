"""A stand-in for the parts of ComfyUI that the backend touches: enough of its contract to test our hooks without it.

Its MMDiT computes with a diffusers transformer, so that what comes out can be compared with the diffusers backend.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from svdp.model.attention import Operations
from svdp.model.backends.diffusers import DiffusersBackend, DiffusersBlock
from torch import Tensor, nn


def optimized_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **kwargs: Any) -> Tensor:
    assert kwargs["skip_reshape"] and q.shape[1] == heads
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _flat(t: Tensor) -> Tensor:
    return t.transpose(1, 2).flatten(2)  # (M, h, n, d) -> (M, n, h * d)


class ImageBlock:
    """ComfyUI's `x_block`."""

    def __init__(self, block: DiffusersBlock) -> None:
        self.block = block
        self.x_block_self_attn = block.block.use_dual_attention
        self.attn = self.attn2 = SimpleNamespace(num_heads=block.heads, ln_q=nn.RMSNorm(1))

    def pre_attention(self, x: Tensor, c: Tensor) -> Any:
        qkv, _, state = self.block.image_in(x, c)
        return tuple(map(_flat, qkv)), (x, state)

    def pre_attention_x(self, x: Tensor, c: Tensor) -> Any:
        qkv, dual, state = self.block.image_in(x, c)
        assert dual is not None
        return tuple(map(_flat, qkv)), tuple(map(_flat, dual)), (x, state)

    def post_attention(self, attn: Tensor, x: Tensor, state: Any) -> Tensor:
        return self.block.image_out(x, attn, None, state)

    def post_attention_x(self, attn: Tensor, attn2: Tensor, x: Tensor, state: Any) -> Tensor:
        return self.block.image_out(x, attn, attn2, state)


class ContextBlock:
    """ComfyUI's `context_block`."""

    def __init__(self, block: DiffusersBlock) -> None:
        self.block, self.attn = block, SimpleNamespace(num_heads=block.heads)

    def pre_attention(self, txt: Tensor, c: Tensor) -> Any:
        qkv, state = self.block.context_in(txt, c)
        return tuple(map(_flat, qkv)), None if state is None else (txt, state)

    def post_attention(self, attn: Tensor, txt: Tensor, state: Any) -> Tensor:
        return self.block.context_out(txt, attn, state)


class JointBlock:
    """ComfyUI's block: (context, x) in and out; the last one gives no context."""

    def __init__(self, block: Any) -> None:
        self.block = DiffusersBlock(block)
        self.context_block, self.x_block = ContextBlock(self.block), ImageBlock(self.block)

    def __call__(self, context: Tensor, x: Tensor, c: Tensor, transformer_options: dict[str, Any]) -> Any:
        x, txt = self.block(x, context, c)
        return None if self.block.block.context_pre_only else txt, x


class MMDiT:
    """ComfyUI's transformer around a diffusers one."""

    def __init__(self, transformer: Any) -> None:
        self.t, self.backend = transformer, DiffusersBackend(transformer)
        a = self.backend.architecture
        self.hidden_size, self.in_channels, self.patch_size = a.width, a.channels, a.patch
        self.pos_embed_max_size = a.table_size
        self.pos_embed = transformer.pos_embed.pos_embed
        self.joint_blocks = [JointBlock(b) for b in transformer.transformer_blocks]
        self.context_embedder = transformer.context_embedder
        self.t_embedder = lambda t, dtype: transformer.time_text_embed.timestep_embedder(
            transformer.time_text_embed.time_proj(t).to(dtype)
        )
        self.y_embedder = _YEmbedder(transformer.time_text_embed.text_embedder)

    def x_embedder(self, latents: Tensor) -> Tensor:
        return self.backend.embed(latents)

    def parameters(self) -> Any:
        return self.t.parameters()

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, y: Tensor, transformer_options: dict[str, Any]) -> Tensor:
        replace = transformer_options.get("patches_replace", {}).get("dit", {})
        img, txt, vec = self.t.pos_embed(x), self.context_embedder(context), self.t.time_text_embed(t, y)
        for i, block in enumerate(self.joint_blocks):

            def original(args: dict[str, Any], block: JointBlock = block) -> dict[str, Any]:
                txt, img = block(args["txt"], args["img"], args["vec"], args["transformer_options"])
                return {"txt": txt, "img": img}

            args = {"img": img, "txt": txt, "vec": vec, "transformer_options": transformer_options}
            patch = replace.get(("double_block", i))
            out = original(args) if patch is None else patch(args, {"original_block": original})
            img, txt = out["img"], out["txt"]
            assert img.shape[1] == x.shape[-2] * x.shape[-1] // self.patch_size**2, "img has N tokens on block borders"
        img = self.t.proj_out(self.t.norm_out(img, vec))
        p, rows = self.patch_size, x.shape[-2] // self.patch_size
        img = img.unflatten(1, (rows, -1)).unflatten(3, (p, p, -1))
        return img.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class _YEmbedder:
    def __init__(self, embedder: Any) -> None:
        self.embedder, self.mlp = embedder, [embedder.linear_1]

    def __call__(self, y: Tensor) -> Tensor:
        return self.embedder(y)


class Executor:
    """ComfyUI's wrapper chain with one wrapper."""

    def __init__(self, model: Any, original: Callable[..., Tensor]) -> None:
        self.class_obj, self.original = model, original

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.original(*args, **kwargs)


class ModelPatcher:
    """ComfyUI's patcher: clones share the model; what hangs on a clone is its own."""

    def __init__(self, model: Any, **devices: Any) -> None:
        self.model = model
        self.attachments: dict[str, Any] = {}
        self.additional: dict[str, list[Any]] = {}
        self.wrappers: dict[tuple[str, str], Any] = {}

    def clone(self) -> ModelPatcher:
        new = ModelPatcher(self.model)
        for own, copy in ((self.attachments, new.attachments), (self.wrappers, new.wrappers)):
            copy.update(own)
        new.additional = {k: list(v) for k, v in self.additional.items()}
        return new

    def get_attachment(self, key: str) -> Any:
        return self.attachments.get(key)

    def set_attachments(self, key: str, value: Any) -> None:
        self.attachments[key] = value

    def set_additional_models(self, key: str, models: list[Any]) -> None:
        self.additional[key] = models

    def get_additional_models_with_key(self, key: str) -> list[Any]:
        return self.additional.get(key, [])

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers[kind, key] = wrapper


def modules() -> dict[str, ModuleType]:
    """The stand-in package."""
    contents: dict[str, dict[str, Any]] = {
        "comfy": {},
        "comfy.lora": {},
        "comfy.model_management": {"get_torch_device": lambda: "cpu", "unet_offload_device": lambda: "cpu"},
        "comfy.model_patcher": {"ModelPatcher": ModelPatcher},
        "comfy.model_sampling": {"ModelSamplingDiscreteFlow": object, "CONST": object},
        "comfy.ops": {"manual_cast": Operations},
        "comfy.utils": {},
        "comfy.patcher_extension": {
            "WrappersMP": SimpleNamespace(APPLY_MODEL="apply_model", PREPARE_SAMPLING="prepare_sampling")
        },
        "comfy.ldm": {},
        "comfy.ldm.modules": {},
        "comfy.ldm.modules.attention": {"optimized_attention": optimized_attention},
        "comfy.ldm.modules.diffusionmodules": {},
        "comfy.ldm.modules.diffusionmodules.mmdit": {"MMDiT": MMDiT},
    }
    result = {name: ModuleType(name) for name in contents}
    for name, values in contents.items():
        for key, value in values.items():
            setattr(result[name], key, value)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(result[parent], last, result[name])
    return result


def backend_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`svdp.model.backends.comfy` bound to the stand-in, for the length of a test."""
    import svdp.model.backends as backends

    for name in [n for n in sys.modules if n == "comfy" or n.startswith("comfy.")]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for last in ("comfy", "comfy_blocks", "comfy_forward"):
        monkeypatch.delitem(sys.modules, f"svdp.model.backends.{last}", raising=False)
        monkeypatch.setattr(backends, last, None, raising=False)
    module = import_module("svdp.model.backends.comfy")
    for last in ("comfy", "comfy_blocks", "comfy_forward"):  # gone again when the test ends
        monkeypatch.setitem(sys.modules, f"svdp.model.backends.{last}", sys.modules.pop(f"svdp.model.backends.{last}"))
    return module


def model_of(transformer: Any) -> ModelPatcher:
    """A MODEL around a diffusers transformer; calling its model is ComfyUI's `apply_model` without sampling."""
    network = MMDiT(transformer)
    model = SimpleNamespace(
        diffusion_model=network, current_patcher=None, get_dtype_inference=lambda: torch.float32, model_config=None
    )
    return ModelPatcher(model)


def run(patcher: ModelPatcher, x: Tensor, sigma: float, options: dict[str, Any], **conds: Any) -> Tensor:
    """What ComfyUI's `apply_model` does with a patcher's wrapper: positional arguments, options the sixth."""
    model = patcher.model
    model.current_patcher = patcher

    def original(x: Tensor, t: Tensor, concat: Any, context: Tensor, control: Any, options: Any, y: Tensor) -> Tensor:
        return model.diffusion_model(x, t * 1000, context, y, options)

    wrapper = patcher.wrappers["apply_model", "svdp"]
    context, y = conds.pop("context"), conds.pop("y")
    timestep = torch.full((len(x),), sigma)
    return wrapper(Executor(model, original), x, timestep, None, context, None, options, y=y, **conds)
