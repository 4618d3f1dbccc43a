"""The adapter: everything the method adds to an untouched SD3 base, and its file.

Parameter names are the file's tensor names. LoRA deltas on the base's own layers are kept beside the module, as
`lora.<diffusers layer>.{A,B}.weight`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import AdapterMismatchError, UserError
from .attention import FullVideoAttention, Operations, zero_init
from .checks import read_json, shortened
from .config import AdapterConfig, BaseArchitecture, adapter_config_from_json, sampling_from_info
from .files import WeightFile, cast_weights, check_tensors, is_finite, is_float

log = logging.getLogger(__name__)

FORMAT_VERSION = 2  # 2: posed source, copy gate, aligned pixels; files of 1 load as they are
PIXELS_PER_LATENT = 8
COPY_PRIOR = 3.0  # log-odds of copying where the posed source is known; their negative elsewhere
ROLES = ("noise", "source", "driving", "history")
LORA_PREFIX = "lora."


class Adapter(nn.Module):
    """Full-video attention, aligned projections, role embeddings, gates and empty-prompt context.

    Untrained (`reset_parameters`) it changes nothing: output projections, the aligned projections, roles and learned
    gates are zero. `operations` is a namespace of layer classes (a backend may pass its own casting ones).
    """

    def __init__(self, config: AdapterConfig, operations: Any = Operations, **factory: Any) -> None:
        super().__init__()
        self.config = config
        base = config.base
        self.video = nn.ModuleDict(
            {
                str(i): FullVideoAttention(
                    base.width,
                    config.inner_width,
                    config.video_head_dim,
                    config.rotary_theta,
                    operations,
                    config.video_scope,
                    **factory,
                )
                for i in config.blocks_with_video
            }
        )
        token = base.channels * base.patch**2
        pixels = 4 * (base.patch * PIXELS_PER_LATENT) ** 2  # of one token: RGB and a mask
        aligned = pixels if config.aligned == "pixels" else token
        self.driving_proj = operations.Linear(aligned, base.width, **factory) if config.uses_aligned else None
        self.posed_proj = operations.Linear(pixels, base.width, **factory) if config.posed else None
        self.copy_norm = operations.RMSNorm(base.width, eps=1e-6, **factory) if config.copy_gate else None
        self.copy_head = operations.Linear(base.width, token, **factory) if config.copy_gate else None
        self.source_proj = operations.Linear(token, base.width, **factory) if config.source == "both" else None
        self.roles = nn.Parameter(torch.zeros(len(ROLES), base.width, **factory))
        gate = torch.zeros(base.depth, **factory) if config.gate == "learned" else None
        self.condition_gate = nn.Parameter(gate) if gate is not None else None
        self.context = nn.Parameter(torch.zeros(config.context_tokens, base.context_dim, **factory))
        self.pooled = nn.Parameter(torch.zeros(base.pooled_dim, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the state of an untrained adapter."""
        for layer in self.video.values():
            assert isinstance(layer, FullVideoAttention)
            layer.reset_parameters()
        for projection in (self.driving_proj, self.source_proj, self.posed_proj, self.copy_head):
            if projection is not None:
                zero_init(projection)
        nn.init.zeros_(self.roles)

    def role(self, name: str) -> Tensor:
        """Role embedding (D,) of "noise", "source", "driving" or "history"."""
        return self.roles[ROLES.index(name)]

    def gate(self, block: int, strength: float) -> Tensor | float:
        """How far conditions enter block `block`: a float if it is known to be constant."""
        return strength if self.condition_gate is None else self.condition_gate[block].float() * strength

    def copy_logits(self, x_MND: Tensor, known_MNP: Tensor) -> Tensor:
        """Log-odds (M, N, C * patch^2) of passing the posed source on, from z's tokens after the last block.

        `known_MNP` (M, N, patch^2) in 0..1 is the share of each latent that the photo shows. Untrained, known places
        are copied and others are not.
        """
        assert self.copy_norm is not None and self.copy_head is not None, "the adapter has no copy gate"
        prior = COPY_PRIOR * (2 * known_MNP - 1)
        channels = self.config.base.channels
        return self.copy_head(self.copy_norm(x_MND)).float() + prior.repeat(1, 1, channels)

    def is_closed(self) -> bool:
        """Whether every learned gate is exactly zero, so that conditions cannot enter (an untrained adapter)."""
        return self.condition_gate is not None and not bool(self.condition_gate.any())

    def num_parameters(self) -> int:
        """Number of new parameters, LoRA deltas not counted."""
        return sum(p.numel() for p in self.parameters())


@dataclass
class AdapterFile:
    """A loaded adapter: module, LoRA deltas by name, free metadata (licence, training, modelspec fields)."""

    adapter: Adapter
    lora: dict[str, Tensor] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


def save_adapter(path: Path | str, file: AdapterFile, dtype: torch.dtype = torch.float16) -> None:
    """Write tensors (cast to `dtype`) with their settings as JSON in the header; the round trip is exact in `dtype`."""
    tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in file.adapter.state_dict().items()}
    tensors |= {LORA_PREFIX + k: v.detach().to("cpu", dtype).contiguous() for k, v in file.lora.items()}
    header = {
        "svdp.format": str(FORMAT_VERSION),
        "svdp.config": json.dumps(file.adapter.config.to_json()),
        "svdp.info": json.dumps({**file.info, "num_parameters": file.adapter.num_parameters()}),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v3.5-medium/svdp-adapter",
        "modelspec.title": str(file.info.get("title", "Stable Video-Driven Portraits adapter")),
    }
    save_file(tensors, str(path), metadata=header)


def load_adapter(path: Path | str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> AdapterFile:
    """Read an adapter file. Raises `AdapterMismatchError` if it is not one, is damaged, is of a newer format, or holds
    a setting or a tensor that it should not: the message names which."""
    file = WeightFile.open(path, "adapter file", AdapterMismatchError)
    _check_header(path, file.header)
    parts = split_adapter(path, file.header, file.read())
    adapter, where = Adapter(parts.config), f"adapter file {path}"
    adapter.load_state_dict(cast_weights(where, parts.weights, dtype, AdapterMismatchError))
    lora = cast_weights(where, parts.lora, dtype, AdapterMismatchError)
    return AdapterFile(adapter.to(device, dtype), lora, parts.info)


@dataclass(frozen=True)
class AdapterParts:
    """What an adapter file holds, as it stands there: settings, the module's weights, LoRA deltas, free metadata."""

    config: AdapterConfig
    weights: dict[str, Tensor]
    lora: dict[str, Tensor]
    info: dict[str, Any]


def split_adapter(path: Path | str, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> AdapterParts:
    """Check and take apart a file that the backend has read: names, shapes, types and ranges of all that is in it.

    Raises `AdapterMismatchError` naming `path` and what is wrong: not an adapter, of a newer format, a setting that
    cannot be, tensors that its header does not speak of, numbers that are not finite.
    """
    _check_header(path, header)
    where = f"adapter file {path}"
    try:
        settings = read_json(header["svdp.config"], f"{where}, svdp.config")
        config = adapter_config_from_json(settings, f"{where}, svdp.config")
        info = read_json(header.get("svdp.info", "{}"), f"{where}, svdp.info")
        sampling_from_info(info, f"{where}, svdp.info")
    except UserError as error:
        raise AdapterMismatchError(str(error)) from error
    lora = {k.removeprefix(LORA_PREFIX): v for k, v in tensors.items() if k.startswith(LORA_PREFIX)}
    own = {k: v for k, v in tensors.items() if not k.startswith(LORA_PREFIX)}
    expected = Adapter(config, device="meta").state_dict()
    check_tensors(f"{where} does not hold what its header says", expected, own, AdapterMismatchError)
    _check_lora(where, lora)
    bad = next((k for k, v in tensors.items() if not is_finite(v)), None)
    if bad is not None:
        raise AdapterMismatchError(f"{where}: {bad} has numbers that are not finite: get the file again")
    return AdapterParts(config, own, lora, info)


def _check_header(path: Path | str, header: Mapping[str, str]) -> None:
    if "svdp.config" not in header:
        raise AdapterMismatchError(f"{path} is not an SVDP adapter: its header has no svdp.config")
    version = header.get("svdp.format", "0")
    if not re.fullmatch(r"[0-9]{1,6}", version):
        raise AdapterMismatchError(f"adapter file {path}, svdp.format must be a whole number, got {shortened(version)}")
    if int(version) > FORMAT_VERSION:
        raise AdapterMismatchError(
            f"{path} has adapter format {version}; this version reads up to {FORMAT_VERSION}: update"
        )


def _check_lora(where: str, lora: Mapping[str, Tensor]) -> None:
    """LoRA deltas come in pairs: A (rank, in) and B (out, rank) of the same layer."""
    for name, tensor in lora.items():
        layer, _, end = name.rpartition(".")
        layer, _, half = layer.rpartition(".")
        if end != "weight" or half not in ("A", "B") or not layer:
            raise AdapterMismatchError(f"{where}: {LORA_PREFIX}{shortened(name, plain=True)} is unknown")
        other = lora.get(f"{layer}.{'B' if half == 'A' else 'A'}.weight")
        if other is None:
            raise AdapterMismatchError(f"{where}: {LORA_PREFIX}{name} is without its other half")
        if not is_float(tensor):
            raise AdapterMismatchError(f"{where}: {LORA_PREFIX}{name} is not of floating point")
        a, b = (tensor, other) if half == "A" else (other, tensor)
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise AdapterMismatchError(
                f"{where}: {LORA_PREFIX}{layer} has A {tuple(a.shape)} and B {tuple(b.shape)}, expected (rank, in) and "
                "(out, rank)"
            )


def check_base(config: AdapterConfig, base: BaseArchitecture) -> None:
    """Raise `AdapterMismatchError` naming both architectures if the adapter was made for another base."""
    names = ("width", "depth", "heads", "dual_blocks", "channels", "patch", "context_dim", "pooled_dim", "qk_norm")
    different = [n for n in names if getattr(config.base, n) != getattr(base, n)]
    if different:
        raise AdapterMismatchError(
            f"the adapter was made for: {config.base}; the base model is: {base} "
            f"(different: {', '.join(different)}). Use the base model that the adapter was trained on"
        )


def log_size(config: AdapterConfig, new: int, base: int) -> None:
    """State the number of new parameters and their share of the base in the log."""
    log.info("adapter: %.2f M new parameters, %.1f %% of the base's %.1f M (%s, driving %s)",
             new / 1e6, 100 * new / base, base / 1e6, config.conditioning, config.driving)  # fmt: skip
