"""ComfyUI backend, forward pass: a segment's conditions and streams, and the blocks replaced around their owners.

A batch may hold any branches of any frames, in any order: each row says which it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ..adapter import Adapter
from ..fusion import BRANCHES, Branch
from ..streams import BlockRunner, Conditions, Streams, prefill
from .comfy_blocks import ComfyBackend, OriginalBlock

log = logging.getLogger(__name__)

PATCHED = "dit"  # what ComfyUI's MMDiT lets other nodes replace
ROWS = "svdp_rows"  # conditioning key: for every row of the batch (branch, frame)


class SegmentState:
    """Conditions of the segment being sampled (latents as the transformer sees them), and their streams once made.

    `sources` keeps the source's streams over the segments of a run: they depend on nothing else.
    """

    def __init__(self, conditions: Conditions, sources: dict[Any, Streams] | None = None) -> None:
        self.conditions = conditions
        self.sources = {} if sources is None else sources
        self._streams: dict[Any, Streams] = {}
        self._told = False

    def streams(self, backend: ComfyBackend, adapter: Adapter, device: torch.device, dtype: torch.dtype) -> Streams:
        """Streams on `device`, made at the first call."""
        key = (device, dtype)
        if key not in self._streams:
            on_device = _to(self.conditions, device, dtype)
            with torch.no_grad():
                self._streams[key] = prefill(backend, adapter, on_device, self.sources.get(key))
            self.sources[key] = self._streams[key].branch("s")
        return self._streams[key]

    def warn_of_unused(self, options: Mapping[str, Any]) -> None:
        """Say once if other nodes changed attention or blocks that a Stable Diffusion 3 model does not have."""
        unused = {*options.get("patches_replace", {})} - {PATCHED} | {*options.get("patches", {})}
        if unused and not self._told:
            self._told = True
            log.warning(
                "%s of another node has no effect: Stable Diffusion 3 models have no such places (Perturbed Attention "
                "Guidance, FreeU and others are for older models; Skip Layer Guidance SD3 fits)",
                " and ".join(sorted(unused)),
            )

    def check_size(self, latents_MCHW: Tensor) -> None:
        """Raise `UserError` if the latents being made are not of the conditions' size."""
        assert self.conditions.source is not None
        want, got = tuple(self.conditions.source.shape[-2:]), tuple(latents_MCHW.shape[-2:])
        if want != got:
            raise UserError(
                f"latents of {got[1]} x {got[0]} are sampled, but the signals are {want[1]} x {want[0]}: use pictures "
                "of one size, and masks rather than areas in the conditioning"
            )


def _to(conditions: Conditions, device: torch.device, dtype: torch.dtype) -> Conditions:
    """The conditions on `device`; the numbers of kept tokens stay whole numbers."""
    given = {f.name: t for f in fields(conditions) if (t := getattr(conditions, f.name)) is not None}
    return Conditions(**{name: t.to(device, dtype if t.is_floating_point() else t.dtype) for name, t in given.items()})


@dataclass
class Chunk:
    """Rows of the batch that are one branch of one clip, and how far they have come."""

    rows: slice
    label: dict[str, Any]  # transformer options that are per chunk
    runner: BlockRunner
    side: Tensor | None = None
    mask: Tensor | None = None  # of the copy gate, once the last block has run


class ConditionedForward:
    """One forward pass of the base with conditions: replaces every block, around its owner of the moment."""

    def __init__(self, backend: ComfyBackend, chunks: Sequence[Chunk]) -> None:
        self.backend, self.chunks = backend, chunks

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """A copy of the transformer options with every block replaced."""
        patches = dict(options.get("patches_replace", {}))
        owners = patches.get("dit", {})
        ours = {("double_block", i): self._replacement(i, owners) for i in range(len(self.backend.blocks))}
        patches["dit"] = {**owners, **ours}
        return {**options, "patches_replace": patches}

    def _replacement(self, index: int, owners: dict[Any, Any]) -> Any:
        owner = owners.get(("double_block", index))

        def replacement(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            original = extra["original_block"]
            if index == 0:
                args = {**args, "img": self._start(args["img"])}
            if owner is None:
                out = self._block(index, args, original)
            else:
                out = owner(args, {**extra, "original_block": lambda a: self._block(index, a, original)})
            if index == len(self.backend.blocks) - 1:
                self._open_gates(out["img"])
            return out

        return replacement

    def _open_gates(self, img: Tensor) -> None:
        for chunk in self.chunks:
            chunk.mask = chunk.runner.copy_mask(img[chunk.rows])

    def pass_on(self, denoised_MCHW: Tensor) -> Tensor:
        """The clean prediction, with the posed source where the copy gate lets it through."""
        if all(chunk.mask is None for chunk in self.chunks):
            return denoised_MCHW
        return torch.cat([_passed_on(denoised_MCHW[chunk.rows], chunk) for chunk in self.chunks])

    def _start(self, img: Tensor) -> Tensor:
        parts = []
        for chunk in self.chunks:
            x, chunk.side = chunk.runner.start(img[chunk.rows])
            parts.append(x)
        return _joined(parts)

    def _block(self, index: int, args: dict[str, Any], original: OriginalBlock) -> dict[str, Any]:
        block = self.backend.comfy_blocks[index]
        block.original = original
        images, texts = [], []
        for chunk in self.chunks:
            block.options = {**args["transformer_options"], **chunk.label}
            img, txt, vec = (args[n][chunk.rows] for n in ("img", "txt", "vec"))
            x, chunk.side, t = chunk.runner.block(index, img, chunk.side, txt, vec)
            images.append(x)
            texts.append(t)
        return {**args, "img": _joined(images), "txt": _joined(texts)}


def _passed_on(denoised: Tensor, chunk: Chunk) -> Tensor:
    posed = chunk.runner.streams.posed_latents
    if chunk.mask is None or posed is None:
        return denoised
    return torch.lerp(denoised.float(), posed.float(), chunk.mask.float()).to(denoised.dtype)


def _joined(parts: list[Any]) -> Any:
    """One batch again; None (the last block's text) stays None."""
    if len(parts) == 1 or any(p is None for p in parts):
        return parts[0]
    return torch.cat(parts)


def chunks_of(
    backend: ComfyBackend, adapter: Adapter, strength: float, streams: Streams, options: dict[str, Any], rows: Tensor
) -> list[Chunk]:
    """The batch's rows (M, 2), branch and frame, as clips of one branch each."""
    labels = options.get("cond_or_uncond") or [0]
    size = len(rows) // len(labels)
    table = rows.tolist()
    result = []
    for n, label in enumerate(labels):
        part = table[n * size : (n + 1) * size]
        branch: Branch = BRANCHES[int(part[0][0])]
        seen = streams.branch(branch).of_frames([int(frame) for _, frame in part])
        runner = BlockRunner(backend, adapter, seen, size, strength)
        own = {"cond_or_uncond": [label], "uuids": options["uuids"][n : n + 1]} if "uuids" in options else {}
        result.append(Chunk(slice(n * size, (n + 1) * size), own, runner))
    return result


def branch_rows(branch: Branch, num_frames: int) -> Tensor:
    """Value of the conditioning key `ROWS` for a branch, (F, 2): batching, splitting and context windows keep each
    row's own numbers, so a forward pass needs to assume nothing about how the branches were put together."""
    frames = torch.arange(num_frames)
    return torch.stack([torch.full_like(frames, BRANCHES.index(branch)), frames], 1)


def plain_rows(count: int, options: dict[str, Any]) -> Tensor:
    """Rows of a sampler that knows nothing of signals: all frames of the batch are one clip, nothing conditions it."""
    chunks = len(options.get("cond_or_uncond") or [0])
    return branch_rows("u", count // chunks).repeat(chunks, 1)
