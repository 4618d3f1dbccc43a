"""ComfyUI backend, blocks: its MMDiT as the method sees a base model.

Weights may be cast, quantised or on another device: everything goes through the base's own modules, never a weight.
"""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT
from einops import rearrange
from torch import Tensor

from ...errors import AdapterMismatchError
from ..attention import QKV, JointBlock
from ..config import BaseArchitecture

OriginalBlock = Callable[[dict[str, Any]], dict[str, Any]]
TIMESTEPS = 1000  # the base's timestep is sigma * 1000


class ComfyBlock:
    """One of MMDiT's joint blocks as `svdp.model.attention.JointBlock`.

    `original` runs the untouched block; the block replacement that is under way sets it. `options` are transformer
    options: attention kernels that other nodes chose are in them.
    """

    def __init__(self, block: Any, options: dict[str, Any]) -> None:
        self.context: Any = block.context_block
        self.image: Any = block.x_block
        self.original: OriginalBlock | None = None
        self.options = options

    def __call__(self, x_MND: Tensor, txt_MLD: Tensor, vec_MD: Tensor) -> tuple[Tensor, Tensor]:
        assert self.original is not None, "the untouched block is known only inside its replacement"
        args = {"img": x_MND, "txt": txt_MLD, "vec": vec_MD, "transformer_options": self.options}
        out = self.original(args)
        return out["img"], out["txt"]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return optimized_attention(q, k, v, heads=q.shape[1], skip_reshape=True, transformer_options=self.options)

    def _heads(self, qkv: Sequence[Tensor], attn: Any) -> QKV:
        q, k, v = (rearrange(t.flatten(2), "m n (h d) -> m h n d", h=attn.num_heads) for t in qkv)
        return q, k, v

    def image_in(self, x_MND: Tensor, vec_MD: Tensor) -> tuple[QKV, QKV | None, Any]:
        if not self.image.x_block_self_attn:
            qkv, state = self.image.pre_attention(x_MND, vec_MD)
            return self._heads(qkv, self.image.attn), None, state
        qkv, dual, state = self.image.pre_attention_x(x_MND, vec_MD)
        return self._heads(qkv, self.image.attn), self._heads(dual, self.image.attn2), state

    def image_out(self, x_MND: Tensor, joint_MND: Tensor, dual_MND: Tensor | None, state: Any) -> Tensor:
        if dual_MND is None:
            return self.image.post_attention(joint_MND, *state)
        return self.image.post_attention_x(joint_MND, dual_MND, *state)

    def context_in(self, txt_MLD: Tensor, vec_MD: Tensor) -> tuple[QKV, Any]:
        qkv, state = self.context.pre_attention(txt_MLD, vec_MD)
        return self._heads(qkv, self.context.attn), state

    def context_out(self, txt_MLD: Tensor, joint_MLD: Tensor, state: Any) -> Tensor:
        return txt_MLD if state is None else self.context.post_attention(joint_MLD, *state)


class ComfyBackend:
    """ComfyUI's MMDiT as `svdp.model.streams.Backend`, for one forward pass."""

    def __init__(self, mmdit: MMDiT, options: dict[str, Any]) -> None:
        self.mmdit: Any = mmdit
        self.architecture = architecture_of_mmdit(mmdit)
        self.checkpointing = False
        self.comfy_blocks = [ComfyBlock(b, options) for b in self.mmdit.joint_blocks]
        self.blocks: Sequence[JointBlock] = self.comfy_blocks

    def embed(self, latents_MCHW: Tensor) -> Tensor:
        return self.mmdit.x_embedder(latents_MCHW)

    def position_table(self) -> Tensor:
        side = self.architecture.table_size
        return self.mmdit.pos_embed.reshape(side, side, -1)

    def modulation(self, sigma_M: Tensor, pooled_MD: Tensor) -> Tensor:
        return self.mmdit.t_embedder(sigma_M * TIMESTEPS, dtype=pooled_MD.dtype) + self.mmdit.y_embedder(pooled_MD)


def mmdit_of(model: Any) -> MMDiT:
    """The transformer of a MODEL (a ComfyUI `ModelPatcher`).

    Raises `AdapterMismatchError` naming the family if it is not of SD3's.
    """
    network = model.model.diffusion_model
    if not isinstance(network, MMDiT) or getattr(network, "pos_embed", None) is None:
        raise AdapterMismatchError(
            f"SVDP works on Stable Diffusion 3 and 3.5 models; this one is of the family {type(model.model).__name__}: "
            "load a Stable Diffusion 3.5 Medium checkpoint, or the bundled small model"
        )
    return network


def architecture_of_mmdit(mmdit: MMDiT) -> BaseArchitecture:
    """The base's shape from ComfyUI's module, whatever form its weights have."""
    net: Any = mmdit
    blocks = net.joint_blocks
    return BaseArchitecture(
        width=net.hidden_size,
        depth=len(blocks),
        heads=blocks[0].x_block.attn.num_heads,
        dual_blocks=tuple(i for i, b in enumerate(blocks) if b.x_block.x_block_self_attn),
        channels=net.in_channels,
        patch=net.patch_size,
        table_size=net.pos_embed_max_size,
        context_dim=getattr(net.context_embedder, "in_features", net.hidden_size),
        pooled_dim=net.y_embedder.mlp[0].in_features if net.y_embedder is not None else 0,
        qk_norm=not isinstance(blocks[0].x_block.attn.ln_q, torch.nn.Identity),
    )
