"""diffusers backend: binds the method to any `SD3Transformer2DModel` (training, command line)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from ...errors import AdapterMismatchError, UserError
from ..adapter import Adapter, check_base
from ..attention import QKV, JointBlock, attend
from ..checks import Within, build
from ..config import BaseArchitecture, Size
from ..files import WeightFile, cast_weights, check_tensors, read_settings
from ..fusion import Branch
from ..streams import BlockRunner, Conditions, Streams, copied, prefill
from ..weights import architecture_of, is_native, prefix_of, strip_prefix, to_diffusers, to_native


class DiffusersBlock:
    """A diffusers `JointTransformerBlock` as `svdp.model.attention.JointBlock`."""

    attend = staticmethod(attend)

    def __init__(self, block: Any) -> None:
        self.block = block
        self.heads = block.attn.heads

    def __call__(self, x_MND: Tensor, txt_MLD: Tensor, vec_MD: Tensor) -> tuple[Tensor, Tensor]:
        txt, x = self.block(hidden_states=x_MND, encoder_hidden_states=txt_MLD, temb=vec_MD)
        return x, txt_MLD if txt is None else txt

    def _project(self, attn: Any, x: Tensor, names: Sequence[str]) -> QKV:
        q, k, v = (rearrange(getattr(attn, n)(x), "m n (h d) -> m h n d", h=self.heads) for n in names[:3])
        return _norm(getattr(attn, names[3], None), q), _norm(getattr(attn, names[4], None), k), v

    def image_in(self, x_MND: Tensor, vec_MD: Tensor) -> tuple[QKV, QKV | None, Any]:
        own = ("to_q", "to_k", "to_v", "norm_q", "norm_k")
        if not self.block.use_dual_attention:
            x, gate, shift_mlp, scale_mlp, gate_mlp = self.block.norm1(x_MND, emb=vec_MD)
            return self._project(self.block.attn, x, own), None, (gate, None, shift_mlp, scale_mlp, gate_mlp)
        x, gate, shift_mlp, scale_mlp, gate_mlp, x2, gate2 = self.block.norm1(x_MND, emb=vec_MD)
        qkv, dual = self._project(self.block.attn, x, own), self._project(self.block.attn2, x2, own)
        return qkv, dual, (gate, gate2, shift_mlp, scale_mlp, gate_mlp)

    def image_out(self, x_MND: Tensor, joint_MND: Tensor, dual_MND: Tensor | None, state: Any) -> Tensor:
        gate, gate2, shift_mlp, scale_mlp, gate_mlp = state
        x = x_MND + gate[:, None] * _out(self.block.attn.to_out, joint_MND)
        if dual_MND is not None:
            x = x + gate2[:, None] * _out(self.block.attn2.to_out, dual_MND)
        y = self.block.norm2(x) * (1 + scale_mlp[:, None]) + shift_mlp[:, None]
        return x + gate_mlp[:, None] * self.block.ff(y)

    def context_in(self, txt_MLD: Tensor, vec_MD: Tensor) -> tuple[QKV, Any]:
        names = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k")
        if self.block.context_pre_only:
            return self._project(self.block.attn, self.block.norm1_context(txt_MLD, vec_MD), names), None
        txt, *state = self.block.norm1_context(txt_MLD, emb=vec_MD)
        return self._project(self.block.attn, txt, names), state

    def context_out(self, txt_MLD: Tensor, joint_MLD: Tensor, state: Any) -> Tensor:
        if state is None:
            return txt_MLD
        gate, shift_mlp, scale_mlp, gate_mlp = state
        txt = txt_MLD + gate[:, None] * self.block.attn.to_add_out(joint_MLD)
        y = self.block.norm2_context(txt) * (1 + scale_mlp[:, None]) + shift_mlp[:, None]
        return txt + gate_mlp[:, None] * self.block.ff_context(y)


def _norm(norm: Any, x: Tensor) -> Tensor:
    """RMS norm over the head by torch's fused kernel: diffusers' own module takes several passes in float32."""
    return x if norm is None else F.rms_norm(x, (x.shape[-1],), norm.weight.to(x.dtype), norm.eps)


def _out(layers: Any, x: Tensor) -> Tensor:
    return layers[1](layers[0](x))


class DiffusersBackend:
    """An `SD3Transformer2DModel` as `svdp.model.streams.Backend`."""

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        self.transformer: Any = transformer
        self.architecture = architecture_from_config(transformer.config)
        self.blocks: Sequence[JointBlock] = [DiffusersBlock(b) for b in self.transformer.transformer_blocks]
        self.checkpointing = False

    def embed(self, latents_MCHW: Tensor) -> Tensor:
        return self.transformer.pos_embed.proj(latents_MCHW).flatten(2).transpose(1, 2)

    def position_table(self) -> Tensor:
        size = self.architecture.table_size
        return self.transformer.pos_embed.pos_embed.reshape(size, size, -1)

    def modulation(self, sigma_M: Tensor, pooled_MD: Tensor) -> Tensor:
        return self.transformer.time_text_embed(sigma_M * 1000, pooled_MD.expand(len(sigma_M), -1))


class Denoiser(nn.Module):
    """Base transformer and adapter as one module: training and the command line use it alike.

    `strength` scales everything that the adapter adds; at 0 the base's own forward is called and nothing else.
    """

    def __init__(self, transformer: SD3Transformer2DModel, adapter: Adapter, strength: float = 1.0) -> None:
        super().__init__()
        self.transformer, self.adapter, self.strength = transformer, adapter, strength
        self.backend = DiffusersBackend(transformer)
        check_base(adapter.config, self.backend.architecture)

    def enable_gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute every block in the backward pass: less memory, about a third more time."""
        self.backend.checkpointing = on

    def prefill(self, conditions: Conditions, source: Streams | None = None) -> Streams:
        """Streams of a segment's conditions (see `svdp.model.streams.prefill`)."""
        return prefill(self.backend, self.adapter, conditions, source)

    def forward(
        self,
        z_BFCHW: Tensor,
        sigma_B: Tensor,
        conditions: Conditions | None = None,
        *,
        streams: Streams | None = None,
        branch: Branch = "p",
    ) -> Tensor:
        """Velocity (B, F, C, H, W) at noise level sigma (B,) in [0, 1] as the given branch sees the conditions.

        Give `conditions` (prefilled here, with gradients) or `streams` (prefilled before).
        """
        batch, frames = z_BFCHW.shape[:2]
        latents = z_BFCHW.flatten(0, 1)
        sigma_M = sigma_B.float().repeat_interleave(frames)
        context = self.adapter.context.to(latents.dtype).expand(batch * frames, -1, -1)
        pooled = self.adapter.pooled.to(latents.dtype).expand(batch * frames, -1)
        if self.strength == 0:
            return self._base(latents, sigma_M, context, pooled).unflatten(0, (batch, frames))
        if streams is None:
            streams = self.prefill(conditions) if conditions is not None else Streams()
        runner = BlockRunner(self.backend, self.adapter, streams.branch(branch), frames, self.strength)
        t = cast(Any, self.transformer)
        x, side = runner.start(t.pos_embed(latents))
        txt, vec = t.context_embedder(context), self.backend.modulation(sigma_M, pooled)
        for i in range(len(self.backend.blocks)):
            x, side, txt = runner.block(i, x, side, txt, vec)
        velocity = self._unpatchify(t.proj_out(t.norm_out(x, vec)), latents)
        if (mask := runner.copy_mask(x)) is not None:
            velocity = copied(velocity, latents, cast(Tensor, runner.streams.posed_latents), mask, sigma_M)
        return velocity.unflatten(0, (batch, frames))

    def _base(self, latents: Tensor, sigma_M: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        return self.transformer(
            hidden_states=latents,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=sigma_M * 1000,
            return_dict=False,
        )[0]

    def _unpatchify(self, x_MND: Tensor, latents: Tensor) -> Tensor:
        p = self.backend.architecture.patch
        rows = latents.shape[-2] // p
        return rearrange(x_MND, "m (h w) (p q c) -> m c (h p) (w q)", h=rows, p=p, q=p)


def architecture_from_config(config: Any) -> BaseArchitecture:
    """The base's shape from a diffusers config."""
    return BaseArchitecture(
        width=config.num_attention_heads * config.attention_head_dim,
        depth=config.num_layers,
        heads=config.num_attention_heads,
        dual_blocks=tuple(config.dual_attention_layers),
        channels=config.in_channels,
        patch=config.patch_size,
        table_size=config.pos_embed_max_size,
        context_dim=config.joint_attention_dim,
        pooled_dim=config.pooled_projection_dim,
        qk_norm=config.qk_norm is not None,
    )


def build_transformer(base: BaseArchitecture) -> SD3Transformer2DModel:
    """A transformer of this shape with random weights; its positional table advances by 1 per patch."""
    return SD3Transformer2DModel(
        sample_size=base.table_size * base.patch,
        patch_size=base.patch,
        in_channels=base.channels,
        num_layers=base.depth,
        attention_head_dim=base.width // base.heads,
        num_attention_heads=base.heads,
        joint_attention_dim=base.context_dim,
        caption_projection_dim=base.width,
        pooled_projection_dim=base.pooled_dim,
        out_channels=base.channels,
        pos_embed_max_size=base.table_size,
        dual_attention_layers=base.dual_blocks,
        qk_norm="rms_norm" if base.qk_norm else None,
    )


def load_transformer(path: Path | str, dtype: torch.dtype = torch.float32) -> SD3Transformer2DModel:
    """Load a base: a diffusers folder, or a single safetensors file with native or diffusers names.

    Names, shapes and types are checked before the model is built. Raises `UserError` naming the file and the tensor or
    setting that is at fault, or if there is no SD3-family transformer.
    """
    file, prefix, base = _open_base(Path(path))
    entries = strip_prefix(file.entries)
    with torch.device("meta"):
        model = build_transformer(base)
    where = f"base model {path}"
    native = is_native(entries)
    expected = to_native(model.state_dict()) if native else model.state_dict()
    check_tensors(where, expected, entries)
    state = cast_weights(where, strip_prefix(file.read(prefix + name for name in entries)), dtype)
    model.load_state_dict(to_diffusers(state) if native else state, assign=True)
    return model


def read_architecture(path: Path | str) -> BaseArchitecture:
    """The shape of the base in a folder or file, from its headers alone. Raises `UserError` as `load_transformer`."""
    return _open_base(Path(path))[2]


def _open_base(path: Path) -> tuple[WeightFile, str, BaseArchitecture]:
    """Headers of a base, what its tensors' names begin with, and its shape."""
    if path.is_dir():
        folder = path / "transformer" if (path / "transformer").is_dir() else path
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{path} is not a diffusers model: there is no config.json in it or in its transformer folder"
            )
        base = _SD3Settings.read(folder / "config.json")
        file = WeightFile.open_folder(folder, "base model")
    else:
        base, file = None, WeightFile.open(path, "base model")
    try:
        return file, prefix_of(file.entries), base or architecture_of(strip_prefix(file.entries))
    except UserError as error:
        raise UserError(f"base model {path}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _SD3Settings:
    """What config.json of a diffusers folder says of a transformer; defaults are diffusers' own."""

    patch_size: Annotated[int, Within(1, 16)] = 2
    in_channels: Annotated[int, Within(1, 1024)] = 16
    out_channels: Annotated[int, Within(1, 1024)] = 16
    num_layers: Annotated[int, Within(1, 256)] = 18
    attention_head_dim: Size = 64
    num_attention_heads: Annotated[int, Within(1, 1024)] = 18
    joint_attention_dim: Size = 4096
    caption_projection_dim: Size = 1152
    pooled_projection_dim: Size = 2048
    pos_embed_max_size: Annotated[int, Within(1, 4096)] = 96
    dual_attention_layers: tuple[int, ...] = ()
    qk_norm: Literal["rms_norm"] | None = None

    @classmethod
    def read(cls, path: Path) -> BaseArchitecture:
        where = f"base model {path}"
        table = read_settings(path, "base model")
        kind = table.get("_class_name", "SD3Transformer2DModel")
        if kind != "SD3Transformer2DModel":
            raise UserError(f"{where} is of class {kind!r}: give a Stable Diffusion 3 or 3.5 model")
        known = {f.name for f in fields(cls)}
        own = build(cls, {k: v for k, v in table.items() if k in known}, where)
        width = own.attention_head_dim * own.num_attention_heads
        if own.caption_projection_dim != width or own.out_channels != own.in_channels:
            raise UserError(
                f"{where}: caption_projection_dim must be {width} and out_channels {own.in_channels}, got "
                f"{own.caption_projection_dim} and {own.out_channels}"
            )
        try:
            return architecture_from_config(own)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


def save_transformer(path: Path | str, model: nn.Module, metadata: Mapping[str, str], dtype: torch.dtype) -> None:
    """Write a base as a native single file that ComfyUI's checkpoint and diffusion model loaders take."""
    native = to_native({k: v.detach().to("cpu", dtype) for k, v in model.state_dict().items()})
    tensors = {"model.diffusion_model." + k: v.contiguous() for k, v in native.items()}
    save_file(tensors, str(path), metadata=dict(metadata))


def merge_lora(transformer: nn.Module, lora: Mapping[str, Tensor], strength: float = 1.0) -> None:
    """Add LoRA deltas B @ A * strength into the base's weights, in place; names as in the adapter file.

    Raises `AdapterMismatchError` naming the first layer that the base does not have. Strength 0 changes nothing.
    """
    if strength == 0:
        return
    for name in sorted({k.rsplit(".", 2)[0] for k in lora}):
        try:
            layer = transformer.get_submodule(name)
        except AttributeError as error:
            raise AdapterMismatchError(f"the adapter's LoRA names layer {name}, which the base model lacks") from error
        weight = getattr(layer, "weight", None)
        out, into = lora[f"{name}.B.weight"], lora[f"{name}.A.weight"]
        if not isinstance(weight, Tensor) or tuple(weight.shape) != (out.shape[0], into.shape[1]):
            has = tuple(weight.shape) if isinstance(weight, Tensor) else "no weight"
            raise AdapterMismatchError(
                f"the adapter's LoRA on {name} is of {(out.shape[0], into.shape[1])}, but the base's layer has {has}"
            )
        delta = out.float() @ into.float()
        with torch.no_grad():
            weight += (delta * strength).to(weight)
