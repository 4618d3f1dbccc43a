"""ComfyUI backend: an adapter on a MODEL, and the forward pass with a segment's conditions.

Everything hangs on a clone of the MODEL: keyed wrappers, an additional model for the adapter's weights, an attachment
with its settings, LoRA deltas as patches. Blocks are replaced for the time of a forward pass alone, around whoever
owns them then, so that the order of nodes does not matter.
"""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...errors import AdapterMismatchError, UserError
from ..adapter import Adapter, AdapterParts, check_base, log_size, split_adapter
from ..config import AdapterConfig, BaseArchitecture
from ..streams import Streams
from ..weights import native_layer
from .comfy_blocks import ComfyBackend, architecture_of_mmdit, mmdit_of
from .comfy_forward import ROWS, ConditionedForward, SegmentState, chunks_of, plain_rows

log = logging.getLogger(__name__)

KEY = "svdp"
FUSION_WEIGHTS = ("source", "driving", "history", "rescale")  # that an adapter file may bring
_OPTIONS_ARGUMENT = 5  # place of transformer_options among apply_model's arguments
_KEPT_SHARE = 0.25  # assumed share of driving tokens that are kept, for the memory estimate


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter file as ComfyUI holds it: weights in a patcher of their own, LoRA deltas, free metadata."""

    name: str
    patcher: Any
    config: AdapterConfig
    lora: dict[str, Tensor] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def sampling(self) -> dict[str, Any]:
        """How the file says to sample: steps, shift, solver, fusion, history_noise; {} if it does not."""
        return dict(self.info.get("sampling") or {})

    def describe(self) -> str:
        """What it is, as lines of text."""
        c, s = self.config, self.sampling
        lines = [
            f"{self.name}: {self.info.get('title', 'SVDP adapter')} ({self.info.get('license', 'licence not stated')})",
            f"for {c.base}",
            f"conditioning {c.conditioning}, driving {c.driving}, {c.resolution} pixels, segments of "
            f"{c.segment_length} frames with {c.num_history} of history",
        ]
        if s:
            fusion = s.get("fusion", {})
            weights = ", ".join(f"{k} {fusion[k]:g}" for k in FUSION_WEIGHTS if k in fusion)
            plain = ", ".join(f"{k} {s[k]}" for k in ("steps", "shift", "solver", "history_noise") if k in s)
            lines.append(f"sample with {plain}; weights {weights}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Applied:
    """What `apply_adapter` left on a MODEL, beside the weights."""

    name: str
    config: AdapterConfig
    strength: float
    info: dict[str, Any]


def load_adapter(path: str, name: str) -> LoadedAdapter:
    """Read an adapter file by ComfyUI's own loader. Raises `AdapterMismatchError` if it is not one."""
    parts = _read(path, name)
    return LoadedAdapter(name, _patcher(parts, path), parts.config, parts.lora, parts.info)


def _read(path: str, name: str) -> AdapterParts:
    tensors, header = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    return split_adapter(name, header or {}, tensors)


def _reload(path: str, disable_dynamic: bool = False) -> Any:
    """A fresh patcher of the same file: ComfyUI asks for one where it must copy (other devices, hooks)."""
    return _patcher(_read(path, path), path, disable_dynamic)


def _patcher(parts: AdapterParts, path: str, disable_dynamic: bool = False) -> Any:
    """The adapter's module, made of ComfyUI's casting layers, in a patcher that ComfyUI may load, offload or copy."""
    dtype = comfy.utils.weight_dtype(parts.weights) or torch.float32
    offload = comfy.model_management.unet_offload_device()
    module = Adapter(parts.config, operations=comfy.ops.manual_cast, device=offload, dtype=dtype)
    kind = comfy.model_patcher.ModelPatcher
    if not disable_dynamic:
        kind = getattr(comfy.model_patcher, "CoreModelPatcher", kind)
    patcher = kind(module, load_device=comfy.model_management.get_torch_device(), offload_device=offload)
    is_dynamic = getattr(patcher, "is_dynamic", lambda: False)()
    module.load_state_dict(parts.weights, assign=is_dynamic)
    module.requires_grad_(False).train(False)
    patcher.cached_patcher_init = (_reload, (path,))
    return patcher


def check_model(model: Any, config: AdapterConfig) -> BaseArchitecture:
    """MODEL's architecture. Raises `AdapterMismatchError` for another family, or another base than the adapter's."""
    base = architecture_of_mmdit(mmdit_of(model))
    check_base(config, base)
    return base


def apply_adapter(model: Any, adapter: LoadedAdapter, strength: float = 1.0, shift: float | None = None) -> Any:
    """A clone of MODEL with the adapter on it; at strength 0 it gives the base's output bit for bit.

    `shift`: sigma shift of the schedule, None: as it is. Raises `AdapterMismatchError` for another family of models or
    another architecture than the adapter was made for, naming both; `UserError` if there is an adapter on it already.
    """
    base = check_model(model, adapter.config)
    if model.get_attachment(KEY) is not None:
        raise UserError("an SVDP adapter is applied to this model already: connect the model from before it")
    clone = model.clone()
    clone.set_attachments(KEY, Applied(adapter.name, adapter.config, strength, adapter.info))
    clone.set_additional_models(KEY, [adapter.patcher])
    for kind, wrapper in ((WrappersMP.APPLY_MODEL, _apply_model), (WrappersMP.PREPARE_SAMPLING, _prepare_sampling)):
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    if strength:
        _add_lora(clone, adapter, strength)
    if shift is not None:
        if "model_sampling" in model.object_patches:
            log.warning("the shift of another node before Apply Adapter has no effect: set Apply Adapter's own")
        clone.add_object_patch("model_sampling", _flow_sampling(model, shift))
    if base.patch == 1:
        for name, own in _counts_of_single_patches(model).items():
            clone.add_object_patch(f"diffusion_model.{name}", own)
    size = sum(p.numel() for p in model.model.diffusion_model.parameters())
    log_size(adapter.config, adapter.patcher.model.num_parameters(), size)
    return clone


def _counts_of_single_patches(model: Any) -> dict[str, Any]:
    """The two methods of ComfyUI's MMDiT that count patches, made to fit patches of one latent.

    They count (side + 1) // patch, which rounds up for patches of two, the only size of published models, and is one
    too many for patches of one.
    """
    positions = model.get_model_object("diffusion_model.cropped_pos_embed")
    unpatchify = model.get_model_object("diffusion_model.unpatchify")

    def counted_positions(hw: Any, *args: Any, **kwargs: Any) -> Any:
        return positions(_one_less(hw), *args, **kwargs)

    def counted_unpatchify(x: torch.Tensor, hw: Any = None) -> Any:
        return unpatchify(x, hw=None if hw is None else _one_less(hw))

    return {"cropped_pos_embed": counted_positions, "unpatchify": counted_unpatchify}


def _one_less(hw: Any) -> tuple[int, int]:
    return hw[0] - 1, hw[1] - 1


def applied_to(model: Any) -> Applied:
    """What is applied to MODEL. Raises `UserError` if nothing is."""
    applied = model.get_attachment(KEY)
    if applied is None:
        raise UserError("no SVDP adapter is applied to this model: put Apply Adapter between the model and this node")
    return applied


def own_fusion(model: Any, chosen: dict[str, float]) -> dict[str, float]:
    """The chosen fusion weights, and the adapter file's own where there is no choice and it has one."""
    own = (applied_to(model).info.get("sampling") or {}).get("fusion") or {}
    return {**{k: own[k] for k in FUSION_WEIGHTS if k in own}, **chosen}


def adapter_of(model: Any) -> Adapter:
    """The adapter's module on MODEL (a patcher that `apply_adapter` made, or a clone of it)."""
    return model.get_additional_models_with_key(KEY)[0].model


def _add_lora(clone: Any, adapter: LoadedAdapter, strength: float) -> None:
    """LoRA deltas on the base's layers, as ComfyUI's own weight patches."""
    if not adapter.lora:
        return
    names = sorted({k.rsplit(".", 2)[0] for k in adapter.lora})
    targets: dict[str, Any] = {}
    for name in names:
        native, third = native_layer(name)
        key = f"diffusion_model.{native}.weight"
        width = adapter.config.base.width
        targets[name] = key if third is None else (key, (0, third * width, width))
    _check_lora_shapes(clone, adapter.lora, targets)
    renamed = {
        k.removesuffix(".A.weight") + ".lora_A.weight"
        if k.endswith(".A.weight")
        else k.removesuffix(".B.weight") + ".lora_B.weight": v
        for k, v in adapter.lora.items()
    }
    patches = comfy.lora.load_lora(renamed, targets)
    taken = set(clone.add_patches(patches, strength))
    missed = [n for n in names if targets[n] not in taken]
    if missed:
        raise AdapterMismatchError(f"the adapter's LoRA names layer {missed[0]}, which the base model lacks")


def _check_lora_shapes(model: Any, lora: dict[str, Tensor], targets: dict[str, Any]) -> None:
    """ComfyUI leaves a delta of another shape out and says so in its log alone; here it is refused."""
    for name, target in targets.items():
        key, part = (target, None) if isinstance(target, str) else target
        try:
            weight = comfy.utils.get_attr(model.model, key)
        except AttributeError as error:
            raise AdapterMismatchError(f"the adapter's LoRA names layer {name}, which the base model lacks") from error
        has = (part[2] if part is not None else weight.shape[0], weight.shape[1])
        found = (lora[f"{name}.B.weight"].shape[0], lora[f"{name}.A.weight"].shape[1])
        if found != has:
            raise AdapterMismatchError(f"the adapter's LoRA on {name} is of {found}, but the base's layer has {has}")


def _flow_sampling(model: Any, shift: float) -> Any:
    """Rectified flow with another sigma shift, as ComfyUI's own node for SD3 sets it."""

    class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    sampling = Flow(model.model.model_config)
    sampling.set_parameters(shift=shift)
    return sampling


def _apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """APPLY_MODEL: the base's forward with our blocks around it; what comes out is the prediction of clean latents."""
    rows = kwargs.pop(ROWS, None)
    options = kwargs["transformer_options"] if "transformer_options" in kwargs else args[_OPTIONS_ARGUMENT]
    model, x = executor.class_obj, args[0]
    patcher = model.current_patcher
    applied = patcher.get_attachment(KEY) if patcher is not None else None
    if applied is None or applied.strength == 0:
        return executor(*args, **kwargs)
    backend, adapter = ComfyBackend(model.diffusion_model, options), adapter_of(patcher)
    state: SegmentState | None = options.get(KEY)
    streams = Streams()
    if state is not None:
        state.check_size(x)
        state.warn_of_unused(options)
        streams = state.streams(backend, adapter, x.device, model.get_dtype_inference())
    if rows is None or state is None:
        rows = plain_rows(len(x), options)
    forward = ConditionedForward(backend, chunks_of(backend, adapter, applied.strength, streams, options, rows))
    options = forward.options(options)
    if "transformer_options" in kwargs:
        kwargs["transformer_options"] = options
    else:
        args = (*args[:_OPTIONS_ARGUMENT], options, *args[_OPTIONS_ARGUMENT + 1 :])
    return forward.pass_on(executor(*args, **kwargs))


def _prepare_sampling(executor: Any, model: Any, noise_shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
    """PREPARE_SAMPLING: ask for room for streams and full-video attention too, as more pictures of the same size."""
    applied = model.get_attachment(KEY)
    if applied is not None and applied.strength:
        one = max(1.0, model.model.memory_required([1, *noise_shape[1:]]))
        itemsize = torch.empty((), dtype=model.model.get_dtype_inference()).element_size()
        extra = math.ceil(extra_bytes(applied.config, noise_shape, itemsize) / one)
        noise_shape = [noise_shape[0] + extra, *noise_shape[1:]]
    return executor(model, noise_shape, *args, **kwargs)


def extra_bytes(config: AdapterConfig, noise_shape: Sequence[int], itemsize: int) -> float:
    """Estimate of what the method needs beside the base's own forward, for noise (F, C, H, W): keys and values that
    are kept (source, kept driving tokens, history), and the largest tensors of a block at work."""
    base, frames = config.base, noise_shape[0]
    tokens = math.ceil(noise_shape[-2] / base.patch) * math.ceil(noise_shape[-1] / base.patch)
    kept = _KEPT_SHARE * tokens if config.uses_tokens else 0.0
    history = 2 * len(config.blocks_with_video) * config.num_history * tokens * config.inner_width
    aligned = frames * tokens * base.width if config.uses_aligned else 0
    video = 6 * frames * tokens * config.inner_width + 2 * config.num_history * tokens * config.inner_width
    side = tokens + kept  # beside each frame's own tokens in a block
    if config.conditioning == "joint":
        streams, work = (tokens + frames * kept) * base.width, 12 * frames * side * base.width
    else:
        streams, work = 2 * base.depth * (tokens + frames * kept) * base.width, 2 * frames * side * base.width
    return itemsize * (streams + history + aligned + video + work)
