"""Conditions of a segment as streams: prefilled once (cached form) or carried along (joint form).

The backend gives its blocks and embeddings; nothing here knows which backend it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .adapter import PIXELS_PER_LATENT, Adapter
from .attention import FullVideoAttention, JointBlock, KeyValue, conditioned_block, joint_form_block, stream_block
from .config import BaseArchitecture
from .fusion import Branch
from .positions import Place, crop_positions
from .tokens import gather_tokens, patchify

T = TypeVar("T")


class Backend(Protocol):
    """What a base model must offer."""

    architecture: BaseArchitecture
    blocks: Sequence[JointBlock]
    checkpointing: bool  # recompute blocks in the backward pass

    def embed(self, latents_MCHW: Tensor) -> Tensor:
        """The base's own patch embedding (M, N, D), without positions."""
        ...

    def position_table(self) -> Tensor:
        """The base's positional table (P, P, D)."""
        ...

    def modulation(self, sigma_M: Tensor, pooled_MD: Tensor) -> Tensor:
        """Vector (M, D) that modulates the blocks at noise level sigma."""
        ...


@dataclass(frozen=True)
class Conditions:
    """What a segment is made from, as latents. None: absent.

    source (B, C, H, W); driving (B, F, C, H, W) masked driving frames; driving_index (B, F, K) kept tokens;
    driving_strength (B, F, N, 1) for the aligned form, None is 1; history (B, H, C, H, W) clean frames before.
    driving_pixels (B, F, 4, 8 H, 8 W) masked driver and mask in 0..1, where the adapter takes pixels; posed_pixels
    likewise, the posed source and what of it is known; posed (B, F, C, H, W) its latents for the copy gate.
    """

    source: Tensor | None = None
    driving: Tensor | None = None
    driving_index: Tensor | None = None
    driving_strength: Tensor | None = None
    history: Tensor | None = None
    driving_pixels: Tensor | None = None
    posed_pixels: Tensor | None = None
    posed: Tensor | None = None


@dataclass(frozen=True)
class Streams:
    """Prefilled conditions of one segment. Cached form: keys and values per block; joint form: embedded tokens.

    source (B, h, N, d) per block; driving (B * F, h, K, d) per block; history (B, h, H * N, d) per block with
    full-video attention; aligned (B * F, N, D) of the driver and aligned_source (B, N, D); *_tokens for the joint form.
    posed (B * F, N, D); posed_latents (B * F, C, H, W) and known (B * F, N, patch^2) are what the copy gate needs.
    """

    source: list[KeyValue] | None = None
    driving: list[KeyValue] | None = None
    history: dict[int, KeyValue] | None = None
    aligned: Tensor | None = None
    aligned_source: Tensor | None = None
    source_tokens: Tensor | None = None
    driving_tokens: Tensor | None = None
    posed: Tensor | None = None
    posed_latents: Tensor | None = None
    known: Tensor | None = None

    def branch(self, branch: Branch) -> Streams:
        """What the branch sees: u nothing, s source, d source, posed source and driver, p everything."""
        if branch == "u":
            return Streams()
        if branch == "s":
            return Streams(source=self.source, source_tokens=self.source_tokens, aligned_source=self.aligned_source)
        return replace(self, history=None) if branch == "d" else self

    def of_frames(self, frames: Sequence[int]) -> Streams:
        """Streams of some of a single clip's frames; history only reaches frames that follow it at once."""
        by_frame = ("aligned", "driving_tokens", "posed", "posed_latents", "known")
        per_block = self.driving[0][0] if self.driving is not None else None
        of = next((t for t in (*(getattr(self, name) for name in by_frame), per_block) if t is not None), None)
        if of is None:
            return self if frames[0] == 0 else replace(self, history=None)
        if list(frames) == list(range(len(of))):
            return self
        index = torch.tensor(list(frames), device=of.device)
        chosen = {name: t[index] for name in by_frame if (t := getattr(self, name)) is not None}
        return replace(
            self,
            **chosen,
            driving=[(k[index], v[index]) for k, v in self.driving] if self.driving is not None else None,
            history=self.history if frames[0] == 0 else None,
        )


def _positions(backend: Backend, latents: Tensor, place: Place) -> Tensor:
    patch = backend.architecture.patch
    return crop_positions(backend.position_table(), latents.shape[-2] // patch, latents.shape[-1] // patch, place)


def embed_tokens(backend: Backend, adapter: Adapter, latents_MCHW: Tensor, place: Place, role: str) -> Tensor:
    """Tokens (M, N, D) of latents with the positions of their place and their role embedding."""
    x = backend.embed(latents_MCHW)
    return x + _positions(backend, latents_MCHW, place).to(x) + adapter.role(role).to(x)


def prefill_source(backend: Backend, adapter: Adapter, source_BCHW: Tensor) -> Streams:
    """Streams of the source alone; depends on nothing else, so once per video is enough."""
    tokens = embed_tokens(backend, adapter, source_BCHW, "left", "source")
    aligned = None
    if adapter.source_proj is not None:
        aligned = adapter.source_proj(patchify(source_BCHW, backend.architecture.patch))
    if adapter.config.conditioning == "joint":
        return Streams(source_tokens=tokens, aligned_source=aligned)
    vec0 = _clean_modulation(backend, adapter, tokens)
    return Streams(source=_stream_key_values(backend, tokens, vec0), aligned_source=aligned)


def prefill_driving(backend: Backend, adapter: Adapter, conditions: Conditions) -> Streams:
    """Streams of the masked driver: kept tokens and the aligned term, as the adapter's form of driving says."""
    aligned, kept, patch = None, None, backend.architecture.patch
    if adapter.driving_proj is not None:
        if adapter.config.aligned == "pixels":
            assert conditions.driving_pixels is not None, "this adapter takes the driver as pixels"
            patches = patchify(conditions.driving_pixels.flatten(0, 1), PIXELS_PER_LATENT * patch)
        else:
            assert conditions.driving is not None, "this adapter takes the driver as latents"
            patches = patchify(conditions.driving.flatten(0, 1), patch)
        aligned = adapter.driving_proj(patches)
        if conditions.driving_strength is not None:
            aligned = aligned * conditions.driving_strength.flatten(0, 1).to(aligned.dtype)
    if adapter.config.uses_tokens:
        assert conditions.driving is not None and conditions.driving_index is not None, "token driving needs both"
        tokens = embed_tokens(backend, adapter, conditions.driving.flatten(0, 1), "right", "driving")
        kept = gather_tokens(tokens, conditions.driving_index.flatten(0, 1))
    if kept is None:
        return Streams(aligned=aligned)
    if adapter.config.conditioning == "joint":
        return Streams(aligned=aligned, driving_tokens=kept)
    vec0 = _clean_modulation(backend, adapter, kept)
    return Streams(aligned=aligned, driving=_stream_key_values(backend, kept, vec0))


def prefill_posed(adapter: Adapter, conditions: Conditions) -> Streams:
    """Streams of the posed source: its aligned term, and what the copy gate passes on."""
    assert conditions.posed_pixels is not None and adapter.posed_proj is not None
    pixels, patch = conditions.posed_pixels.flatten(0, 1), adapter.config.base.patch
    posed = adapter.posed_proj(patchify(pixels, PIXELS_PER_LATENT * patch))
    if not adapter.config.copy_gate:
        return Streams(posed=posed)
    assert conditions.posed is not None, "the copy gate needs the posed source's latents"
    known = patchify(F.avg_pool2d(pixels[:, 3:].float(), PIXELS_PER_LATENT), patch)
    return Streams(posed=posed, posed_latents=conditions.posed.flatten(0, 1), known=known)


def prefill_history(backend: Backend, adapter: Adapter, history_BHCHW: Tensor) -> Streams:
    """Keys and values of the history frames for every full-video attention; frame indices are -H .. -1."""
    batch, frames = history_BHCHW.shape[:2]
    tokens = embed_tokens(backend, adapter, history_BHCHW.flatten(0, 1), "centre", "history")
    vec0 = _clean_modulation(backend, adapter, tokens)
    index = torch.arange(-frames, 0, device=tokens.device)
    result: dict[int, KeyValue] = {}
    for i, block in enumerate(backend.blocks):
        tokens, _ = run(backend, stream_block, block, tokens, vec0)
        if str(i) in adapter.video:
            result[i] = _video(adapter, i).key_values(rearrange(tokens, "(b t) n d -> b t n d", b=batch), index)
    return Streams(history=result)


def prefill(backend: Backend, adapter: Adapter, conditions: Conditions, source: Streams | None = None) -> Streams:
    """All streams of a segment; pass `source` to reuse the streams of `prefill_source`."""
    streams = source or Streams()
    if source is None and conditions.source is not None:
        streams = prefill_source(backend, adapter, conditions.source)
    if conditions.driving is not None or conditions.driving_pixels is not None:
        d = prefill_driving(backend, adapter, conditions)
        streams = replace(streams, driving=d.driving, aligned=d.aligned, driving_tokens=d.driving_tokens)
    if conditions.posed_pixels is not None and adapter.posed_proj is not None:
        p = prefill_posed(adapter, conditions)
        streams = replace(streams, posed=p.posed, posed_latents=p.posed_latents, known=p.known)
    if conditions.history is not None and conditions.history.shape[1]:
        streams = replace(streams, history=prefill_history(backend, adapter, conditions.history).history)
    return streams


def _clean_modulation(backend: Backend, adapter: Adapter, like: Tensor) -> Tensor:
    pooled = adapter.pooled.to(like)[None]
    return backend.modulation(torch.zeros(1, device=like.device), pooled)


def run(backend: Backend, function: Callable[..., T], *args: Any) -> T:
    """Call `function`, recomputing it in the backward pass if the backend asks for gradient checkpointing."""
    if backend.checkpointing and torch.is_grad_enabled():
        return cast(T, checkpoint(function, *args, use_reentrant=False))
    return function(*args)


def _stream_key_values(backend: Backend, tokens: Tensor, vec0: Tensor) -> list[KeyValue]:
    result: list[KeyValue] = []
    for block in backend.blocks:
        tokens, kv = run(backend, stream_block, block, tokens, vec0)
        result.append(kv)
    return result


def _per_frame(x: Tensor, frames: int) -> Tensor:
    """A clip's tensor (B, ...) for each of its frames, (B * F, ...); of a single clip without a copy."""
    return x.expand(frames, *x.shape[1:]) if len(x) == 1 else x.repeat_interleave(frames, 0)


def _video(adapter: Adapter, index: int) -> FullVideoAttention:
    return cast(FullVideoAttention, adapter.video[str(index)])


def copied(velocity_MCHW: Tensor, z_MCHW: Tensor, posed_MCHW: Tensor, mask_MCHW: Tensor, sigma_M: Tensor) -> Tensor:
    """Velocity whose clean prediction is m * posed + (1 - m) * the network's (copy gate, design section 12).

    `sigma_M` is above 0. Works in float32.
    """
    sigma = sigma_M.float().clamp(min=1e-4)[:, None, None, None]
    towards = (z_MCHW.float() - posed_MCHW.float()) / sigma
    return velocity_MCHW + mask_MCHW * (towards - velocity_MCHW.float())


class BlockRunner:
    """Runs a base's blocks for one branch of one forward pass.

    Args: the backend; streams as the branch sees them; frames F of the segment (z is (B * F, N, D)); strength of the
    adapter. In the joint form the side tokens (source, driver) go from block to block in `side`.
    """

    def __init__(
        self, backend: Backend, adapter: Adapter, streams: Streams, frames: int, strength: float = 1.0
    ) -> None:
        self.backend, self.adapter, self.frames, self.strength = backend, adapter, frames, strength
        training = adapter.training and torch.is_grad_enabled()
        closed = not training and adapter.is_closed()
        self.streams = (
            replace(streams, source=None, driving=None, source_tokens=None, driving_tokens=None) if closed else streams
        )

    def start(self, x_MND: Tensor) -> tuple[Tensor, Tensor | None]:
        """Before block 0: role of the noise and what is aligned, scaled by the strength; and the side tokens."""
        x = x_MND + self.adapter.role("noise").to(x_MND) * self.strength
        if self.streams.aligned_source is not None:
            x = x + _per_frame(self.streams.aligned_source, self.frames).to(x.dtype) * self.strength
        if self.streams.aligned is not None:
            x = x + self.streams.aligned.to(x.dtype) * self.strength
        if self.streams.posed is not None:
            x = x + self.streams.posed.to(x.dtype) * self.strength
        return x, self._side_tokens()

    def copy_mask(self, x_MND: Tensor) -> Tensor | None:
        """How far the posed source is passed on (M, C, H, W) in 0..1, from z after the last block; None: not at all."""
        s, patch = self.streams, self.backend.architecture.patch
        if s.posed_latents is None or s.known is None:
            return None
        mask = torch.sigmoid(self.adapter.copy_logits(x_MND, s.known)) * self.strength
        rows = s.posed_latents.shape[-2] // patch
        return rearrange(mask, "m (h w) (c p q) -> m c (h p) (w q)", h=rows, p=patch, q=patch)

    def _side_tokens(self) -> Tensor | None:
        s = self.streams
        parts = []
        if s.source_tokens is not None:
            parts.append(_per_frame(s.source_tokens, self.frames))
        if s.driving_tokens is not None:
            parts.append(s.driving_tokens)
        return torch.cat(parts, 1) if parts else None

    def block(
        self, index: int, x_MND: Tensor, side_MSD: Tensor | None, txt_MLD: Tensor, vec_MD: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Block `index` with its conditions, then full-video attention if it has one: z, side tokens, text."""
        return run(self.backend, self._block, index, x_MND, side_MSD, txt_MLD, vec_MD)

    def _block(
        self, index: int, x: Tensor, side: Tensor | None, txt: Tensor, vec: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        block = self.backend.blocks[index]
        gate = self.adapter.gate(index, self.strength)
        if side is not None:
            x, side, txt = joint_form_block(block, x, side, txt, vec, gate)
        elif extra := self._extra(index):
            x, txt = conditioned_block(block, x, txt, vec, extra, gate)
        else:
            x, txt = block(x, txt, vec)
        return self._full_video(index, x), side, txt

    def _extra(self, index: int) -> list[KeyValue]:
        result: list[KeyValue] = []
        if self.streams.source is not None:
            k, v = self.streams.source[index]
            result.append((_per_frame(k, self.frames), _per_frame(v, self.frames)))
        if self.streams.driving is not None:
            result.append(self.streams.driving[index])
        return result

    def _full_video(self, index: int, x_MND: Tensor) -> Tensor:
        if str(index) not in self.adapter.video:
            return x_MND
        history = self.streams.history[index] if self.streams.history is not None else None
        x = rearrange(x_MND, "(b f) n d -> b f n d", f=self.frames)
        residual = _video(self.adapter, index)(x, history, self.backend.blocks[index].attend)
        return x_MND + rearrange(residual, "b f n d -> (b f) n d") * self.strength
