"""What a run is made of: clips, denoiser, optimiser, and the files that come out."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import AdapterMismatchError, UserError
from ..model.adapter import Adapter, AdapterFile, check_base, load_adapter, log_size, save_adapter
from ..model.backends.diffusers import (
    Denoiser,
    architecture_from_config,
    build_transformer,
    load_transformer,
    save_transformer,
)
from ..model.config import AdapterConfig
from .attention_init import init_local_attention
from .checkpoint import Progress, sync
from .config import LoraSettings, TrainConfig
from .data.locations import Location, find_files
from .data.shards import load_shards
from .data.streaming import ClipStream
from .data.windows import LatentClips
from .fewstep_config import FewStepConfig

log = logging.getLogger(__name__)

BASE_FILE, ADAPTER_FILE = "base.safetensors", "adapter.safetensors"
TEXT_STREAM = (
    "context_embedder",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
    "ff_context",
    "norm1_context",
)
# Of every block: projections of both attentions, feed-forward; not the text stream, as the prompt is constant.
LORA_LAYERS = r".*\.attn2?\.(to_q|to_k|to_v|to_out\.0)|.*\.ff\.net\.(0\.proj|2)"


def load_clips(config: TrainConfig) -> tuple[LatentClips | ClipStream, LatentClips]:
    """Training and held-out clips. Raises `UserError` if there are no shards or they do not fit the configuration."""
    data, base = config.data, config.base.architecture
    heldout = LatentClips.from_arrays(load_shards(_shards(data.root, data.heldout)))
    paths = _shards(data.root, data.train)
    if data.stream_shards:
        clips = ClipStream(paths, data.stream_shards, data.stream_every, config.seed, heldout.black)
        log.info("%d of %d shards are held in memory at a time", clips.held, len(paths))
    else:
        clips = LatentClips.from_arrays(load_shards(paths))
    for part in (clips if isinstance(clips, LatentClips) else clips.one, heldout):
        part.require_window(config.window)
        channels, height, width = part.latent_shape
        if channels != base.channels or height % base.patch or width % base.patch:
            raise UserError(
                f"latents of shape {part.latent_shape} do not fit a base with {base.channels} channels and patches of "
                f"{base.patch}: build the shards with SD3's latent space and a resolution divisible by {8 * base.patch}"
            )
    if len(heldout) < 2:
        raise UserError("at least 2 held-out clips are needed: condition-swap gaps compare a clip with another one")
    log.info("%d clips to train on, %d held out, latents %s", clips.count, len(heldout), heldout.latent_shape)
    return clips, heldout


def _shards(root: str, patterns: tuple[str, ...]) -> list[Location]:
    paths = find_files(root, patterns)
    if not paths:
        names = " ".join(patterns)
        raise UserError(f"no shards match {names} in {root}: build them with `svdp data build`, or set [data] root")
    return paths


def build_denoiser(config: TrainConfig) -> Denoiser:
    """Base and adapter in float32; only what is to be trained requires gradients.

    Raises `AdapterMismatchError` if the base file has another shape than the configuration says.
    """
    base = config.base
    transformer = load_transformer(base.path) if base.path else build_transformer(base.architecture)
    check_base(config.adapter, architecture_from_config(transformer.config))
    transformer.requires_grad_(base.train)
    if base.dtype == "bfloat16":
        for weight in transformer.parameters():  # buffers, such as the positional table, keep their precision
            weight.data = weight.data.bfloat16()
    if config.lora.rank:
        add_lora(transformer, config.lora, base.train)
    adapter = _start_from(config.start, config.adapter, transformer) if config.start else Adapter(config.adapter)
    if base.attention_init == "local" and not base.path and not config.start:
        init_local_attention(transformer, adapter, config.adapter.resolution // (8 * base.architecture.patch))
    denoiser = Denoiser(transformer, adapter)
    denoiser.enable_gradient_checkpointing(config.gradient_checkpointing)
    if config.compile:
        denoiser.compile()
    size = sum(p.numel() for k, p in transformer.named_parameters() if "lora_" not in k)
    log_size(config.adapter, denoiser.adapter.num_parameters(), size)
    trained = sum(p.numel() for p in denoiser.parameters() if p.requires_grad)
    log.info("%.2f M weights are trained", trained / 1e6)
    return denoiser


def _start_from(path: str, wanted: AdapterConfig, transformer: nn.Module) -> Adapter:
    """The adapter of a file, if it is of the form that the configuration asks for; its LoRA goes into `transformer`."""
    file = load_adapter(path)
    if file.lora:
        _load_lora(path, transformer, file.lora)
    found, asked = asdict(file.adapter.config), asdict(wanted)
    training = ("segment_length", "num_history", "resolution", "crop_scale")  # not what it is made of
    different = [k for k in asked if k not in training and found[k] != asked[k]]
    if different:
        pairs = ", ".join(f"{k} {found[k]!r} instead of {asked[k]!r}" for k in different)
        raise AdapterMismatchError(f"{path} cannot be started from: {pairs}. Make [adapter] and [base] agree with it")
    file.adapter.config = wanted
    return file.adapter.requires_grad_(True)


def build_posed_denoiser(config: FewStepConfig) -> Denoiser:
    """Base and adapter of the few-step training.

    A base that `config.base` names stays as it is, in bfloat16 and with LoRA if asked for. Else it is random or that of
    `config.start`, and trained but for the text stream of the constant prompt, which is zero. Raises `UserError` if a
    file does not fit.
    """
    torch.manual_seed(config.seed)
    if config.base:
        transformer = load_transformer(config.base, torch.bfloat16).requires_grad_(False)
        check_base(config.adapter, architecture_from_config(transformer.config))
        if config.lora.rank:
            add_lora(transformer, config.lora, base_is_trained=False)
    else:
        transformer = build_transformer(config.adapter.base)
        for name, parameter in transformer.named_parameters():
            if any(part in name for part in TEXT_STREAM):
                nn.init.zeros_(parameter).requires_grad_(False)
    denoiser = Denoiser(transformer, Adapter(config.adapter))
    if config.start:
        _load_start(denoiser, Path(config.start), config)
    if not config.base:
        cast(Any, denoiser.adapter).context.requires_grad_(False)
    denoiser.enable_gradient_checkpointing(config.gradient_checkpointing)
    return denoiser.to(config.device)


def _load_start(denoiser: Denoiser, folder: Path, config: FewStepConfig) -> None:
    wanted = ("adapter",) if config.base else ("base", "adapter")
    found = {part: sorted(folder.rglob(f"*{part}.safetensors")) for part in wanted}
    if not all(found.values()):
        raise UserError(f"{folder} holds no {' and '.join(f'*{p}.safetensors' for p in wanted)} to start from")
    path = found["adapter"][0]
    file = load_adapter(path)
    if file.adapter.config != denoiser.adapter.config:
        raise UserError(f"{path} was made with other settings than this run's adapter: use the same")
    if file.lora:
        _load_lora(str(path), denoiser.transformer, file.lora)
    if "base" in found:
        base = load_transformer(found["base"][0])
        check_base(denoiser.adapter.config, architecture_from_config(base.config))
        denoiser.transformer.load_state_dict(base.state_dict())
    denoiser.adapter.load_state_dict(file.adapter.state_dict())


@torch.no_grad()
def open_gates(adapter: nn.Module, step: int, steps: int) -> None:
    """Let conditions in a little more with each of the first `steps` steps; 0: the gates are learned instead.

    A learned gate begins at zero and moves by about the learning rate a step: it would take thousands of steps.
    """
    gate = cast(Adapter, adapter).condition_gate
    if steps and gate is not None:
        gate.requires_grad_(False).fill_(min(1.0, step / steps))


def without_open_gates(adapter: Adapter) -> Adapter:
    """The same adapter without its gates if they are all open, 1: it is quicker so. Else the adapter itself."""
    if adapter.condition_gate is None or not bool((adapter.condition_gate == 1).all()):
        return adapter
    weight = adapter.condition_gate
    plain = Adapter(replace(adapter.config, gate="open"), device=weight.device, dtype=weight.dtype)
    plain.load_state_dict({k: v for k, v in adapter.state_dict().items() if k != "condition_gate"})
    return plain


def add_lora(transformer: nn.Module, lora: LoraSettings, base_is_trained: bool) -> None:
    """Put LoRA deltas on the layers that `LORA_LAYERS` names. Raises `UserError` if those are trained themselves."""
    if base_is_trained:
        raise UserError("[lora] rank > 0 with [base] train = true trains the same layers twice: choose one")
    from peft import LoraConfig  # heavy, and only needed here

    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha or lora.rank, target_modules=LORA_LAYERS)
    cast(Any, transformer).add_adapter(settings)
    for name, weight in transformer.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()  # whatever the base's precision is: small updates must not get lost


def lora_deltas(transformer: nn.Module) -> dict[str, Tensor]:
    """LoRA matrices by the adapter file's names, `<layer>.A.weight` (r, in) and `<layer>.B.weight` (out, r), the
    latter with the scale alpha / r in it; empty without LoRA."""
    deltas = {}
    for name, layer in transformer.named_modules():
        if not hasattr(layer, "lora_A") or not hasattr(layer, "scaling"):
            continue
        part = cast(Any, layer)
        for adapter, scale in part.scaling.items():
            deltas[f"{name}.A.weight"] = part.lora_A[adapter].weight
            deltas[f"{name}.B.weight"] = part.lora_B[adapter].weight * scale
    return deltas


@torch.no_grad()
def _load_lora(path: str, transformer: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """The inverse of `lora_deltas`: set the LoRA matrices of a transformer that has some of the same shape."""
    own = {k: tuple(v.shape) for k, v in lora_deltas(transformer).items()}
    if own != {k: tuple(v.shape) for k, v in saved.items()}:
        rank = next(v.shape[0] for k, v in saved.items() if k.endswith(".A.weight"))
        raise AdapterMismatchError(
            f"{path} has LoRA deltas of rank {rank} on {len(saved) // 2} layers: set [lora] rank to the same, and "
            "train the same layers, to start from it"
        )
    for name, layer in transformer.named_modules():
        if f"{name}.A.weight" in own:
            part = cast(Any, layer)
            for adapter, scale in part.scaling.items():
                part.lora_A[adapter].weight.copy_(saved[f"{name}.A.weight"])
                part.lora_B[adapter].weight.copy_(saved[f"{name}.B.weight"] / scale)


def export_weights(denoiser: Denoiser, folder: Path, info: Mapping[str, Any], with_base: bool) -> None:
    """Write the denoiser's present weights in float16: `base.safetensors` (native names, if it was trained) and
    `adapter.safetensors`, both with `info` in their headers; each file is replaced atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    if with_base:
        header = {k: v if isinstance(v, str) else json.dumps(v) for k, v in info.items()}
        _replace(folder / BASE_FILE, lambda p: save_transformer(p, denoiser.transformer, header, torch.float16))
    adapter = without_open_gates(cast(Adapter, denoiser.adapter))
    file = AdapterFile(adapter, lora_deltas(denoiser.transformer), dict(info))
    _replace(folder / ADAPTER_FILE, lambda p: save_adapter(p, file))


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    part = path.with_name(f".{path.name}.part")
    write(part)
    sync(part)
    os.replace(part, path)


def describe(config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """What a run's weights say of their making: steps, minutes, settings without this machine's paths."""
    settings = {k: v for k, v in config.to_json().items() if k not in ("adapter", "watch", "info")}
    settings["data"] = {k: v for k, v in settings["data"].items() if k != "root"}  # a path of the machine
    settings["base"] = {**settings["base"], "path": Path(config.base.path).name}
    settings["start"] = Path(config.start).name
    return {"step": progress.step, "minutes": round(progress.seconds / 60, 1), "by": _version(), "settings": settings}


def _version() -> str:
    try:
        return f"video-driven-portraits {version('video-driven-portraits')}"
    except PackageNotFoundError:
        return "video-driven-portraits"
