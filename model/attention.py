"""Attention of the method: the base's joint block with conditioning streams, and full-video attention.

Legend: B clips, F frames of a segment, M = B * F, H history frames, N tokens of a frame, K kept driving tokens,
L text tokens, D width, h heads, d head size. Keys and values are (M, h, tokens, d).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]
QKV = tuple[Tensor, Tensor, Tensor]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v (M, h, tokens, d) -> (M, tokens, h * d)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain softmax attention, (M, h, tokens, d) -> (M, tokens, h * d)."""
    small_on_cpu = q.device.type == "cpu" and q.shape[2] * k.shape[2] <= 2**21
    explicit = small_on_cpu and (q.requires_grad or q.dtype == torch.bfloat16)
    out = _explicit_attention(q, k, v) if explicit else F.scaled_dot_product_attention(q, k, v)
    return rearrange(out, "m h n d -> m n (h d)")


def _explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The formula itself: on the CPU, at our sizes, its backward pass and all of it in bfloat16 take about half the
    flash kernel's time."""
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    return torch.matmul(scores.softmax(-1), v)


class JointBlock(Protocol):
    """A base model's MMDiT block, taken apart; each backend gives one per block. `vec` is (M, D) or (1, D)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax attention by the backend's kernel, (M, h, tokens, d) -> (M, tokens, h * d)."""
        ...

    def __call__(self, x_MND: Tensor, txt_MLD: Tensor, vec_MD: Tensor) -> tuple[Tensor, Tensor]:
        """The base's own block, untouched."""
        ...

    def image_in(self, x_MND: Tensor, vec_MD: Tensor) -> tuple[QKV, QKV | None, Any]:
        """Modulated projections of image tokens: joint q, k, v; dual attention's if any; what `image_out` needs."""
        ...

    def image_out(self, x_MND: Tensor, joint_MND: Tensor, dual_MND: Tensor | None, state: Any) -> Tensor:
        """Output projections, gates and feed-forward for image tokens."""
        ...

    def context_in(self, txt_MLD: Tensor, vec_MD: Tensor) -> tuple[QKV, Any]:
        """Modulated projections of text tokens."""
        ...

    def context_out(self, txt_MLD: Tensor, joint_MLD: Tensor, state: Any) -> Tensor:
        """Like `image_out`, for text; in the last block the text goes through unchanged."""
        ...


def stream_block(block: JointBlock, tokens_MND: Tensor, vec0_1D: Tensor) -> tuple[Tensor, KeyValue]:
    """One block of a conditioning stream (cached form): tokens attend to their own frame's stream alone, modulated at
    t = 0. Returns the tokens after the block and the keys and values that z attends to."""
    (q, k, v), dual, state = block.image_in(tokens_MND, vec0_1D)
    joint = block.attend(q, k, v)
    return block.image_out(tokens_MND, joint, block.attend(*dual) if dual is not None else None, state), (k, v)


def conditioned_block(
    block: JointBlock,
    x_MND: Tensor,
    txt_MLD: Tensor,
    vec_MD: Tensor,
    extra: Sequence[KeyValue],
    gate: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Joint block whose keys and values also hold the streams in `extra` (cached form, design decision 2).

    Queries come from text and z; dual attention stays on z. `gate` blends base attention (0) into conditioned (1); a
    float 1.0 computes the conditioned one alone.
    """
    (q, k, v), dual, x_state = block.image_in(x_MND, vec_MD)
    (cq, ck, cv), c_state = block.context_in(txt_MLD, vec_MD)
    num_image = q.shape[2]
    q, k, v = (torch.cat(pair, 2) for pair in ((q, cq), (k, ck), (v, cv)))
    out = block.attend(q, torch.cat([k, *(e[0] for e in extra)], 2), torch.cat([v, *(e[1] for e in extra)], 2))
    out = _blend(block.attend, (q, k, v), out, gate)
    x = block.image_out(x_MND, out[:, :num_image], block.attend(*dual) if dual is not None else None, x_state)
    return x, block.context_out(txt_MLD, out[:, num_image:], c_state)


def joint_form_block(
    block: JointBlock,
    x_MND: Tensor,
    side_MSD: Tensor,
    txt_MLD: Tensor,
    vec_MD: Tensor,
    gate: Tensor | float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The paper's form: z and the side tokens (source, driver) go through the block as one sequence, modulated at t.

    Returns z, side tokens and text after the block. `gate` works on what z and text see.
    """
    num_image = x_MND.shape[1]
    joined = torch.cat([x_MND, side_MSD], 1)
    (q, k, v), dual, x_state = block.image_in(joined, vec_MD)
    (cq, ck, cv), c_state = block.context_in(txt_MLD, vec_MD)
    q, k, v = (torch.cat(pair, 2) for pair in ((q, cq), (k, ck), (v, cv)))
    out = block.attend(q, k, v)
    num_joined = joined.shape[1]
    if not isinstance(gate, float) or gate != 1.0:
        own = torch.cat([torch.arange(num_image), torch.arange(num_joined, q.shape[2])]).to(q.device)
        blended = _blend(block.attend, (q[:, :, own], k[:, :, own], v[:, :, own]), out[:, own], gate)
        out = torch.cat([blended[:, :num_image], out[:, num_image:num_joined], blended[:, num_image:]], 1)
    dual_out = block.attend(*dual) if dual is not None else None
    joined = block.image_out(joined, out[:, :num_joined], dual_out, x_state)
    return joined[:, :num_image], joined[:, num_image:], block.context_out(txt_MLD, out[:, num_joined:], c_state)


def _blend(attend: Attend, qkv: QKV, full: Tensor, gate: Tensor | float) -> Tensor:
    if isinstance(gate, float) and gate == 1.0:
        return full
    base = attend(*qkv)
    return base + (gate.to(base) if isinstance(gate, Tensor) else gate) * (full - base)


def rotary(x_MhTNd: Tensor, frames_T: Tensor, theta: float) -> Tensor:
    """Temporal rotary embedding (Su et al. 2021, arXiv 2104.09864) on the frame index; every token of a frame turns
    alike. `frames_T` may be negative (history). Works in float32, returns x's dtype."""
    half = x_MhTNd.shape[-1] // 2
    freq = theta ** (-torch.arange(half, device=x_MhTNd.device, dtype=torch.float32) / half)
    angle = (frames_T.float()[:, None] * freq)[:, None, :]  # (T, 1, half)
    cos, sin = angle.cos(), angle.sin()
    a, b = x_MhTNd.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x_MhTNd.dtype)


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm with its weight cast to the input, so that the fused kernel runs under autocast too."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype) if self.weight is not None else None
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class Operations:
    """Default layer classes; a backend may pass a namespace of its own casting ones."""

    Linear = nn.Linear
    RMSNorm = RMSNorm


def zero_init(layer: nn.Module) -> None:
    """Fill a layer's parameters with zeros; a backend's layer may have none before its weights are loaded."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class FullVideoAttention(nn.Module):
    """Every token of z attends to all tokens of all frames of the segment and of the history (paper, full-video
    attention). Pre-norm residual branch with an output projection that is zero at start.

    Args: width D of the base, inner width, head size, rotary base; `operations` is a namespace of layer classes;
    `scope` "position" is the factorised form for comparison: a token attends to those at its own place alone.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        head_dim: int,
        theta: float,
        operations: Any = Operations,
        scope: str = "full",
        **factory: Any,
    ) -> None:
        super().__init__()
        self.heads, self.theta, self.scope = inner // head_dim, theta, scope
        self.norm = operations.RMSNorm(width, eps=1e-6, **factory)
        self.to_q = operations.Linear(width, inner, bias=False, **factory)
        self.to_k = operations.Linear(width, inner, bias=False, **factory)
        self.to_v = operations.Linear(width, inner, bias=False, **factory)
        self.norm_q = operations.RMSNorm(head_dim, eps=1e-6, **factory)
        self.norm_k = operations.RMSNorm(head_dim, eps=1e-6, **factory)
        self.to_out = operations.Linear(inner, width, **factory)

    def reset_parameters(self) -> None:
        """Start as the identity: the output projection is zero."""
        zero_init(self.to_out)

    def _heads(self, x_BTND: Tensor) -> Tensor:
        return rearrange(x_BTND, "b t n (h d) -> b h t n d", h=self.heads)

    def key_values(self, x_BTND: Tensor, frames_T: Tensor) -> KeyValue:
        """Keys and values (B, h, T * N, d) of frames at the given (possibly negative) indices."""
        y = self.norm(x_BTND)
        k = rotary(self.norm_k(self._heads(self.to_k(y))), frames_T, self.theta)
        return k.flatten(2, 3), self._heads(self.to_v(y)).flatten(2, 3)

    def forward(self, x_BFND: Tensor, history: KeyValue | None = None, attend: Attend = attend) -> Tensor:
        """Residual (B, F, N, D) to add to z, by the given attention kernel."""
        frames = torch.arange(x_BFND.shape[1], device=x_BFND.device)
        y = self.norm(x_BFND)
        q = rotary(self.norm_q(self._heads(self.to_q(y))), frames, self.theta).flatten(2, 3)
        k = rotary(self.norm_k(self._heads(self.to_k(y))), frames, self.theta).flatten(2, 3)
        v = self._heads(self.to_v(y)).flatten(2, 3)
        if history is not None:
            k, v = torch.cat([history[0], k], 2), torch.cat([history[1], v], 2)
        if self.scope == "position":
            q, k, v = (rearrange(t, "b h (t n) d -> (b n) h t d", n=x_BFND.shape[2]) for t in (q, k, v))
            return self.to_out(rearrange(attend(q, k, v), "(b n) f d -> b f n d", b=len(x_BFND)))
        return rearrange(self.to_out(attend(q, k, v)), "b (f n) d -> b f n d", f=x_BFND.shape[1])
