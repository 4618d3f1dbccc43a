"""What a configuration will cost: memory counted on the meta device, time from a few real steps on this machine.

Memory: the live bytes of a forward and backward pass of the whole model, and what weights, gradients, optimiser and
average take. Nothing is allocated for that. Time: steps with random data, of the whole model where it is small enough.
Else a model with fewer blocks and frames is timed, and its time is scaled by the number of operations.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, autocast, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from ..model.adapter import Adapter
from ..model.attention import attend
from ..model.backends.diffusers import Denoiser, build_transformer
from ..model.config import AdapterConfig
from ..model.flow import add_noise, velocity_target
from ..model.fusion import BRANCHES, Branch
from ..model.streams import Conditions
from .bf16_copy import BF16Copy
from .config import StageSettings, TrainConfig
from .ema import Ema
from .loss import flow_loss
from .optim import build_optimizer
from .setup import add_lora

log = logging.getLogger(__name__)

KEPT_TOKENS = 0.2  # share of the driving tokens that a region touches, usually
MOMENTS = {"adamw": 8, "muon": 4}  # bytes of optimiser state per trained weight
TIMED_STEPS = 2
MOST_OPERATIONS = {"cpu": 2e11, "cuda": 2e14}  # of a timed step


@dataclass(frozen=True)
class StageCost:
    """One stage of the curriculum, one update on one device; the dearest branch that the stage trains."""

    stage: StageSettings
    share: float  # of the run
    operations: float  # floating-point, forward and backward
    activations: int  # bytes at the peak, beside weights and their like
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """Costs of a run on one device; bytes unless said otherwise."""

    parameters: int  # number
    trained: int  # number
    weights: int
    gradients: int
    optimiser: int
    average: int
    stages: tuple[StageCost, ...]
    timed: str  # what was timed
    rate: float  # operations a second, as timed
    timed_peak: int  # measured during the timed steps; 0 where it cannot be measured
    steps: float
    seconds: float

    @property
    def memory(self) -> int:
        """Bytes at the peak of the dearest stage."""
        fixed = self.weights + self.gradients + self.optimiser + self.average
        return fixed + max(s.activations for s in self.stages)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside and still alive, and their peak; works on the meta device."""

    def __init__(self, known: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = {p.untyped_storage()._cdata for p in (*known.parameters(), *known.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._add, result)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def estimate(config: TrainConfig, device: torch.device | None = None) -> Estimate:
    """Count and time a configuration. No shards are read and no weights: random ones stand in for them."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device("meta"):
        model = build(config)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained, frozen = (sum(n for n, t in sizes if t is wanted) for wanted in (True, False))
    # A stage's largest tensors are counted in the precision that the pass runs in.
    lean = _lean(model, config)
    counts = [(_operations(lean, s), _activations(lean, s)) for s in config.stages]
    rate, timed, peak = _time(config, counts[-1][0], device)
    ends = [0.0, *(s.until for s in config.stages)]
    shares = [end - start for start, end in pairwise(ends)]
    accumulate = config.optim.accumulate
    stages = tuple(
        StageCost(stage, share, accumulate * ops, live, accumulate * ops / rate)
        for stage, share, (ops, live) in zip(config.stages, shares, counts, strict=True)
    )
    per_step = sum(s.share * s.seconds for s in stages)
    steps = config.steps if config.steps else 60 * config.minutes / per_step
    return Estimate(
        parameters=trained + frozen,
        trained=trained,
        weights=_weight_bytes(config, model, trained, frozen),
        gradients=trained * (6 if config.precision == "bf16-weights" else 4),
        optimiser=trained * MOMENTS[config.optim.name],
        average=4 * trained,
        stages=stages,
        timed=timed,
        rate=rate,
        timed_peak=peak,
        steps=steps,
        seconds=steps * per_step,
    )


def _lean(model: Denoiser, config: TrainConfig) -> Denoiser:
    return model.bfloat16() if config.precision.startswith("bf16") else model


def _weight_bytes(config: TrainConfig, model: nn.Module, trained: int, frozen: int) -> int:
    copies = 2 if config.precision.startswith("bf16") else 0  # of what is trained, for the pass
    table = config.base.architecture.table_size**2 * config.base.architecture.width * 4
    return (4 + copies) * trained + (2 if config.base.dtype == "bfloat16" else 4) * frozen + table


def build(config: TrainConfig, blocks: int = 0) -> Denoiser:
    """The configuration's model with random weights on the default device; its first `blocks` blocks, 0: all.

    The positional table is only as large as the pictures need.
    """
    whole, tokens = config.base.architecture, config.adapter.resolution // (8 * config.base.architecture.patch)
    depth = min(blocks or whole.depth, whole.depth)
    dual = tuple(i for i in whole.dual_blocks if i < depth)
    video = None if config.adapter.video_blocks is None else tuple(i for i in config.adapter.video_blocks if i < depth)
    base = replace(whole, depth=depth, dual_blocks=dual, table_size=min(whole.table_size, 3 * tokens))
    transformer = build_transformer(base)
    transformer.requires_grad_(config.base.train)
    if config.base.dtype == "bfloat16":
        for weight in transformer.parameters():
            weight.data = weight.data.bfloat16()
    if config.lora.rank:
        add_lora(transformer, config.lora, config.base.train)
    denoiser = Denoiser(transformer, Adapter(replace(config.adapter, base=base, video_blocks=video)))
    denoiser.enable_gradient_checkpointing(config.gradient_checkpointing)
    return denoiser


def _random_pass(model: Denoiser, stage: StageSettings, frames: int = 0, batch: int = 0) -> Tensor:
    """The loss of a micro-batch of random data, of the dearest branch that the stage trains."""
    adapter, weight = model.adapter.config, next(model.adapter.parameters())
    base, count, shown = adapter.base, batch or stage.batch, frames or stage.frames
    size = adapter.resolution // 8
    like = {"device": weight.device, "dtype": weight.dtype}
    dearest = cast(Branch, [b for b, p in zip(BRANCHES, stage.branches.values, strict=True) if p > 0][-1])

    def latents(*lead: int) -> Tensor:
        return torch.randn(*lead, base.channels, size, size, **like)

    target, noise, sigmas = latents(count, shown), latents(count, shown), torch.full((count,), 0.5, **like)
    conditions = random_conditions(dearest, adapter, latents, count, shown, stage.history)
    velocity = model(add_noise(target, noise, sigmas), sigmas, conditions)
    return flow_loss(velocity, velocity_target(target, noise).float(), sigmas, None)[0]


def random_conditions(
    branch: Branch,
    adapter: AdapterConfig,
    latents: Callable[..., Tensor],
    batch: int,
    frames: int,
    history: int,
) -> Conditions:
    """What a branch sees of `batch` clips of so many frames; `latents(*lead)` makes random ones."""
    driven, index = branch in ("d", "p"), None
    device = latents(1).device
    if driven and adapter.uses_tokens:
        tokens = (adapter.resolution // (8 * adapter.base.patch)) ** 2
        kept = min(tokens, -(-int(KEPT_TOKENS * tokens) // adapter.token_multiple) * adapter.token_multiple)
        index = torch.arange(kept, device=device).expand(batch, frames, kept)
    return Conditions(
        source=latents(batch) if branch != "u" else None,
        driving=latents(batch, frames) if driven else None,
        driving_index=index,
        history=latents(batch, history) if branch == "p" and history else None,
    )


def _operations(model: Denoiser, stage: StageSettings, frames: int = 0, batch: int = 0) -> float:
    """Floating-point operations of a forward and backward pass of a model on the meta device."""
    attend_by(model, plain_attention)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        _random_pass(model, stage, frames, batch).backward()
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def _activations(model: Denoiser, stage: StageSettings) -> int:
    """Bytes at the peak of a pass, weights and their gradients not counted."""
    attend_by(model, fused_attention)
    trained = [p for p in model.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(_drop_gradient) for p in trained]
    with torch.device("meta"), LiveBytes(model) as live:
        _random_pass(model, stage).backward()
    for hook in hooks:
        hook.remove()
    return live.peak


def _drop_gradient(weight: Tensor) -> None:
    weight.grad = None


def attend_by(model: Denoiser, kernel: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Let the blocks compute attention by `kernel`: the meta device's own keeps what no real device keeps."""
    for block in model.backend.blocks:
        cast(Any, block).attend = kernel


def _joined(out: Tensor) -> Tensor:
    return out.transpose(1, 2).flatten(2)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as matrix products, whose operations can be counted."""
    return _joined((q @ k.transpose(-1, -2)).softmax(-1) @ v)


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One that keeps no scores, as the kernels of GPUs; the meta device itself would take the plain one."""
    return _joined(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0])


def _time(config: TrainConfig, operations: float, device: torch.device) -> tuple[float, str, int]:
    """Operations a second in real steps of the last stage (or of a smaller one), what was timed, peak bytes."""
    stage, depth = config.stages[-1], config.base.architecture.depth
    blocks, frames, batch = depth, stage.frames, stage.batch
    most = MOST_OPERATIONS.get(device.type, MOST_OPERATIONS["cpu"])
    if operations > most:
        batch, blocks = 1, min(2, depth)
        part = operations * blocks / depth / stage.batch
        frames = max(1, min(frames, int(frames * most / part)))
        with torch.device("meta"):
            small = _lean(build(config, blocks), config)
        operations = _operations(small, stage, frames, batch)
    with torch.device(device):
        model = build(config, blocks)
    seconds, peak = _timed_steps(config, model, stage, frames, batch, device)
    what = "the whole model" if (blocks, frames, batch) == (depth, stage.frames, stage.batch) else (
        f"{blocks} of {depth} blocks, {frames} of {stage.frames} frames, {batch} of {stage.batch} clips"
    )  # fmt: skip
    return operations / seconds, what, peak


def _timed_steps(
    config: TrainConfig, model: Denoiser, stage: StageSettings, frames: int, batch: int, device: torch.device
) -> tuple[float, int]:
    """Median seconds of a step, after one to warm up, and the peak of memory."""
    optimiser, ema = build_optimizer(model, config.optim), Ema(model, config.optim.ema)
    bf16_copy = BF16Copy(model) if config.precision == "bf16-weights" else None
    running = bf16_copy.module if bf16_copy is not None else model
    attend_by(running, attend)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(1 + TIMED_STEPS):
        start = time.perf_counter()
        if bf16_copy is not None:
            bf16_copy.take_weights()
        with autocast(device.type, half) if half is not None else nullcontext(), torch.device(device):
            loss = _random_pass(running, stage, frames, batch)
        loss.backward()
        if bf16_copy is not None:
            bf16_copy.give_gradients()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], config.optim.clip)
        optimiser.step()
        ema.update()
        optimiser.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_of_process()
    return sorted(times[1:])[TIMED_STEPS // 2], peak


def _peak_of_process() -> int:
    if os.name == "nt":
        return 0
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
