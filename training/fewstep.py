"""Training of the posed model for few steps: pairs rendered while training, flow and decoded losses, a discriminator.

One step reads top to bottom in `Run.step`: draw a batch, noise it, predict, compare latents and pictures, update.
Only PyTorch, NumPy, numba, einops, OpenCV, safetensors and diffusers are needed: it runs on a bare machine with a GPU.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, autocast, nn
from torch.nn import Conv2d
from torch.nn import functional as F

from ..errors import UserError
from ..model.adapter import Adapter, AdapterFile, check_base, load_adapter, save_adapter
from ..model.autoencoder import TinyAutoencoder
from ..model.backends.diffusers import (
    Denoiser,
    architecture_from_config,
    build_transformer,
    load_transformer,
    save_transformer,
)
from ..model.config import AdapterConfig, BaseArchitecture
from ..model.fusion import Branch
from ..model.streams import Conditions
from .data.posed import PosedSample, World, fit_face_twice, make_sample
from .muon import orthogonalise
from .optim import MATRICES

log = logging.getLogger(__name__)

TEXT_STREAM = (
    "context_embedder",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
    "ff_context",
    "norm1_context",
)
METADATA = {"title": "Stable Video-Driven Portraits, mini", "license": "Apache-2.0"}
REGION_WEIGHT = 6.0  # of the loss inside eyes, nose and mouth
GREY = (0.299, 0.587, 0.114)
FEATURE_LAYERS = (2, 6, 10)  # of the autoencoder's encoder


@dataclass(frozen=True, kw_only=True)
class FewStepConfig:
    """A run of `train`."""

    adapter: AdapterConfig
    start: str = ""  # folder with *base and *adapter.safetensors to go on from; empty: random weights
    minutes: float = 600.0
    max_steps: int = 10**9
    clips: int = 4  # clips in a batch
    frames: int = 8  # of a clip in a batch, history aside
    photos: int = 32  # single frames in a batch of photos
    photo_share: float = 0.25  # of the batches
    lr: float = 6e-4
    muon_lr: float = 1e-2
    final_lr: float = 0.03  # share of the rates at the end
    warmup: int = 100
    ema: float = 0.999
    levels: tuple[float, ...] = (1.0, 0.9, 0.75, 0.5)  # noise levels of the few steps
    level_shares: tuple[float, ...] = (0.4, 0.1, 0.15, 0.1)  # the rest is spread from 0.05 to 1
    own_share: float = 0.5  # inputs and history made from the model's own predictions
    draft_share: float = 0.1  # inputs made from the posed source: sampling may start there
    drop_driver: float = 0.05
    drop_posed: float = 0.07
    branches: tuple[float, float, float] = (0.02, 0.04, 0.54)  # u, s, d; the rest is p
    latent: float = 0.3  # weight of the latents' loss
    decoded: float = 1.0  # weight of the decoded pictures' loss
    features: float = 0.6
    edges: float = 1.0  # weight of the local strength of edges: sharp, even where they are a little displaced
    temporal: float = 0.5  # weight of the change from one frame to the next
    adversarial: float = 0.5  # gradient of the discriminator's loss beside that of the other decoded losses
    adversarial_from: float = 0.45  # progress at which the discriminator starts to count
    decoder_lr: float = 0.0  # of the autoencoder's decoder, which learns to draw what the model predicts; 0: frozen
    grey_driver: float = 0.35  # share of the drivers without colour; the others get another one
    workers: int = 1
    capacity: int = 64  # clips held in memory
    photo_capacity: int = 0  # 0: as many as clips
    heldout: int = 24
    eval_every: float = 60.0  # seconds
    save_every: float = 120.0
    threads: int = 0
    device: str = "cpu"
    seed: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)


def bundled_adapter(
    resolution: int = 256, crop_scale: float = 1.4, width: int = 320, depth: int = 5, heads: int = 5
) -> AdapterConfig:
    """The bundled model's adapter: posed source and driver as pixels, copy gate. ComfyUI wants width = 64 * depth."""
    base = BaseArchitecture(width=width, depth=depth, heads=heads, table_size=48, context_dim=64, pooled_dim=64)
    return AdapterConfig(
        base=base, driving="aligned", source="both", aligned="pixels", posed=True, copy_gate=True, gate="open",
        segment_length=8, resolution=resolution, crop_scale=crop_scale, video_width=128, video_blocks=(1, 3),
        context_tokens=1,
    )  # fmt: skip


# --- samples: rendered by processes, kept on the device ---------------------------------------------------------------

_WORLD: World | None = None  # of a render process
_CONTEXT = multiprocessing.get_context("spawn")  # a forked process would hang where PyTorch has threads


def _enter(world: World) -> None:
    """What a render process does first: one thread, and the world."""
    global _WORLD
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _WORLD = world


def _fit(number: int) -> Any:
    assert _WORLD is not None
    return fit_face_twice(_WORLD.faces[number], _WORLD)


def fit_world(world: World, workers: int) -> World:
    """The world with fitted faces, those that fit badly left out."""
    if workers > 1:
        with _CONTEXT.Pool(workers, _enter, (world,)) as pool:
            fitted = pool.map(_fit, range(len(world.faces)), chunksize=4)
    else:
        fitted = [fit_face_twice(face, world) for face in world.faces]
    good = [face for face in fitted if face is not None]
    log.info("%d of %d faces fit", len(good), len(world.faces))
    return replace(world, faces=good)


def _render(out: Any, world: World, seed: int) -> None:
    _enter(world)
    os.nice(3)
    rng = np.random.default_rng(seed)
    while True:
        try:
            out.put(make_sample(rng, world))
        except (ValueError, FloatingPointError, np.linalg.LinAlgError) as error:
            log.warning("a sample was left out: %s", error)


class Renderers:
    """Processes that render samples without end."""

    def __init__(self, world: World, workers: int, seed: int) -> None:
        self.queue: Any = _CONTEXT.Queue(maxsize=4 * workers)
        self.processes = [
            _CONTEXT.Process(target=_render, args=(self.queue, world, seed * 1000 + n), daemon=True)
            for n in range(workers)
        ]
        for process in self.processes:
            process.start()
        self.waiting: queue.Queue[PosedSample] = queue.Queue(maxsize=4096)
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        while True:
            self.waiting.put(self.queue.get())

    def close(self) -> None:
        """Stop them."""
        for process in self.processes:
            process.kill()


class Store:
    """A ring of samples on the device: pictures as uint8, latents in half precision."""

    def __init__(self, capacity: int, frames: int, size: int, autoencoder: TinyAutoencoder, device: str) -> None:
        whole = {"device": device, "dtype": torch.uint8}
        self.source = torch.zeros(capacity, 3, size, size, **whole)  # type: ignore[arg-type]
        self.target = torch.zeros(capacity, frames, 3, size, size, **whole)  # type: ignore[arg-type]
        self.posed = torch.zeros(capacity, frames, 4, size, size, **whole)  # type: ignore[arg-type]
        self.driver = torch.zeros(capacity, frames, 4, size, size, **whole)  # type: ignore[arg-type]
        self.real = torch.zeros(capacity, device=device, dtype=torch.bool)  # the target is a photo or a real clip
        side = size // 8
        half = {"device": device, "dtype": torch.bfloat16}
        self.source_z = torch.zeros(capacity, 16, side, side, **half)  # type: ignore[arg-type]
        self.target_z = torch.zeros(capacity, frames, 16, side, side, **half)  # type: ignore[arg-type]
        self.posed_z = torch.zeros(capacity, frames, 16, side, side, **half)  # type: ignore[arg-type]
        self.autoencoder, self.device, self.added, self.capacity = autoencoder, device, 0, capacity

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, sample: PosedSample) -> None:
        """Encode a sample and put it in the oldest one's place."""
        n = self.added % self.capacity
        put = lambda a: torch.from_numpy(np.moveaxis(a, -1, -3).copy()).to(self.device)  # noqa: E731
        source, target, posed, driver = (put(a) for a in (sample.source, sample.target, sample.posed, sample.driver))
        self.source[n], self.target[n], self.posed[n], self.driver[n] = source, target, posed, driver
        self.source_z[n] = self._encode(source[None])[0]
        self.target_z[n], self.posed_z[n] = self._encode(target), self._encode(posed[:, :3])
        self.real[n] = sample.kind != "rendered"
        self.added += 1

    @torch.no_grad()
    def _encode(self, pictures: Tensor) -> Tensor:
        with autocast(torch.device(self.device).type, torch.bfloat16):
            return self.autoencoder.encode(pictures.float() / 255)

    def batch(self, rows: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """Samples `rows` (B,) at `frames` (B, F)."""
        r = rows[:, None]
        unit = lambda t: t.float() / 255  # noqa: E731
        return {
            "source_z": self.source_z[rows].float(), "z": self.target_z[r, frames].float(),
            "posed_z": self.posed_z[r, frames].float(), "target": self.target[r, frames],
            "posed": unit(self.posed[r, frames]), "driver": unit(self.driver[r, frames]), "real": self.real[rows],
        }  # fmt: skip


# --- losses -----------------------------------------------------------------------------------------------------------


def charbonnier(error: Tensor, weight: Tensor | float = 1.0, eps: float = 1e-3) -> Tensor:
    """Weighted mean of sqrt(e^2 + eps^2)."""
    return (weight * torch.sqrt(error.float().square() + eps * eps)).mean()


def gradient_loss(error: Tensor, weight: Tensor) -> Tensor:
    """Charbonnier of horizontal and vertical differences: edges must be where they are."""
    return charbonnier(error.diff(dim=-1), weight[..., 1:]) + charbonnier(error.diff(dim=-2), weight[..., 1:, :])


def edge_strength_loss(made: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Charbonnier of mean absolute differences in blocks of 8 x 8 pixels: as sharp as the truth, wherever edges are."""

    def strength(pictures: Tensor) -> Tensor:
        across = F.avg_pool2d(pictures.diff(dim=-1).abs(), 8, 4, ceil_mode=True)
        return across + F.avg_pool2d(pictures.diff(dim=-2).abs().mT, 8, 4, ceil_mode=True).mT

    error = strength(made) - strength(truth)
    return charbonnier(error, F.interpolate(weight, error.shape[-2:], mode="area"))


def recoloured(driver: Tensor, grey_share: float) -> Tensor:
    """Masked drivers (B, F, 4, H, W) in 0 to 1 with other colours: some grey, some of another saturation and hue.

    Black stays black, and the mask, the last channel, stays as it is.
    """
    count = len(driver)
    kind = {"device": driver.device, "dtype": driver.dtype}
    saturation = torch.rand(count, 1, 1, **kind) * 1.4  # type: ignore[arg-type]
    saturation[torch.rand(count, device=driver.device) < grey_share] = 0
    grey = torch.tensor(GREY, **kind).expand(3, 3)  # type: ignore[arg-type]
    angle = 0.5 * torch.randn(count, 1, 1, **kind)  # type: ignore[arg-type]
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], **kind) / math.sqrt(3)  # type: ignore[arg-type]
    eye = torch.eye(3, **kind)  # type: ignore[arg-type]
    hue = eye + torch.sin(angle) * cross + (1 - torch.cos(angle)) * (cross @ cross)
    gains = torch.exp(0.1 * torch.randn(count, 3, 1, **kind))  # type: ignore[arg-type]
    matrix = gains * ((saturation * eye + (1 - saturation) * grey) @ hue)
    colours = torch.einsum("nij,nfjhw->nfihw", matrix, driver[:, :, :3]).clamp(0, 1)
    return torch.cat([colours, driver[:, :, 3:]], 2)


def features(autoencoder: TinyAutoencoder, pictures: Tensor) -> list[Tensor]:
    """Channel-normalised features of the frozen encoder."""
    found, x = [], pictures
    for number, layer in enumerate(autoencoder.taesd_encoder):
        x = layer(x)
        if number in FEATURE_LAYERS:
            found.append(F.normalize(x.float(), dim=1, eps=1e-3))
        if number == max(FEATURE_LAYERS):
            break
    return found


class Discriminator(nn.Module):
    """Patches of pictures and their masks, real or made (Isola et al. 2017), with spectral normalisation."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = (4, width, 2 * width, 4 * width, 4 * width)
        norm = nn.utils.parametrizations.spectral_norm
        self.layers = nn.ModuleList(
            norm(Conv2d(a, b, 4, 2 if n < 3 else 1, 1)) for n, (a, b) in enumerate(pairwise(widths))
        )
        self.last = norm(Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, pictures: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores (B, 1, h, w) of (B, 3, H, W) pictures and their (B, 1, H, W) masks, and the features on the way."""
        x, kept = torch.cat([pictures, mask], 1) * 2 - 1, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            kept.append(x)
        return self.last(x), kept


# --- the run ----------------------------------------------------------------------------------------------------------


class FewStepOptimizer:
    """Muon on the matrices that image tokens go through (all of one shape together), AdamW on the rest."""

    def __init__(self, module: nn.Module, lr: float, muon_lr: float) -> None:
        trained = {k: p for k, p in module.named_parameters() if p.requires_grad}
        self.matrices = [p for k, p in trained.items() if MATRICES.match(k)]
        rest = [p for k, p in trained.items() if not MATRICES.match(k)]
        fused = rest[0].device.type == "cuda"
        self.adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.lr, self.muon_lr = lr, muon_lr
        self.groups: dict[tuple[int, ...], list[int]] = {}
        for n, p in enumerate(self.matrices):
            self.groups.setdefault(tuple(p.shape), []).append(n)

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One update at a share of the learning rates."""
        for group in self.adamw.param_groups:
            group["lr"] = self.lr * share
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        for numbers in self.groups.values():
            numbers = [n for n in numbers if self.matrices[n].grad is not None]
            if not numbers:
                continue
            grads = torch.stack([cast(Tensor, self.matrices[n].grad) for n in numbers])
            kept = torch.stack([self.momentum[n] for n in numbers]).lerp_(grads, 0.05)
            updates = orthogonalise_all(torch.lerp(grads, kept, 0.95))
            for row, n in enumerate(numbers):
                self.momentum[n].copy_(kept[row])
                self.matrices[n].sub_(updates[row].to(self.matrices[n].dtype), alpha=self.muon_lr * share)
                self.matrices[n].grad = None

    def state_dict(self) -> dict[str, Any]:
        """All that a later run needs."""
        return {"adamw": self.adamw.state_dict(), "momentum": self.momentum}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.adamw.load_state_dict(state["adamw"])
        for own, saved in zip(self.momentum, state["momentum"], strict=True):
            own.copy_(saved)


def orthogonalise_all(matrices: Tensor) -> Tensor:
    """`muon.orthogonalise` of (n, rows, columns) matrices at once."""
    if matrices.device.type == "cpu":
        return torch.stack([orthogonalise(m.bfloat16()) for m in matrices])
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    x = x / (x.float().flatten(1).norm(dim=1)[:, None, None].to(x) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def build_denoiser(config: FewStepConfig) -> Denoiser:
    """A base and adapter from random weights; the text stream of the constant prompt is zero and not trained."""
    torch.manual_seed(config.seed)
    transformer = build_transformer(config.adapter.base)
    for name, parameter in transformer.named_parameters():
        if any(part in name for part in TEXT_STREAM):
            nn.init.zeros_(parameter).requires_grad_(False)
    denoiser = Denoiser(transformer, Adapter(config.adapter))
    if config.start:
        _load_start(denoiser, Path(config.start))
    cast(Any, denoiser.adapter).context.requires_grad_(False)
    return denoiser.to(config.device)


def _load_start(denoiser: Denoiser, folder: Path) -> None:
    """Take over weights that a run or `svdp bundle` wrote. Raises UserError if they are missing or of another shape."""
    found = [sorted(folder.rglob(f"*{part}.safetensors")) for part in ("base", "adapter")]
    if not all(found):
        raise UserError(f"{folder} holds no *base.safetensors and *adapter.safetensors to start from")
    base, file = load_transformer(found[0][0]), load_adapter(found[1][0])
    check_base(denoiser.adapter.config, architecture_from_config(base.config))
    if file.adapter.config != denoiser.adapter.config:
        raise UserError(f"{found[1][0]} was made with other settings than this run's adapter: use the same")
    denoiser.transformer.load_state_dict(base.state_dict())
    denoiser.adapter.load_state_dict(file.adapter.state_dict())


class Run:
    """Weights, samples and clocks of one run."""

    def __init__(
        self,
        config: FewStepConfig,
        autoencoder: TinyAutoencoder,
        renderers: Renderers,
        heldout: Sequence[PosedSample],
        out: Path,
    ) -> None:
        self.config, self.out = config, out
        self.kind = torch.device(config.device).type
        self.renderers = renderers
        size, frames = heldout[0].source.shape[0], max(len(sample.target) for sample in heldout)
        self.autoencoder = autoencoder.to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.store = Store(config.capacity, frames, size, autoencoder, config.device)
        self.photo_store = Store(config.photo_capacity or config.capacity, 1, size, autoencoder, config.device)
        self.heldout = _batches(config, heldout, autoencoder)
        self.denoiser = build_denoiser(config)
        self.optimizer = FewStepOptimizer(self.denoiser, config.lr, config.muon_lr)
        trained = [p for p in self.denoiser.parameters() if p.requires_grad]
        skipped = [block.parameters() for block in autoencoder.modules() if getattr(block, "skipped", False)]
        still = {id(p) for parameters in skipped for p in parameters}
        self.decoder = [p for p in autoencoder.taesd_decoder.parameters() if id(p) not in still and config.decoder_lr]
        self.trained, self.averaged = trained, [*trained, *self.decoder]
        self.average = [p.detach().clone() for p in self.averaged]
        self.judge = Discriminator().to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        fused = self.kind == "cuda"
        decoder = [p.requires_grad_(True) for p in self.decoder] or [torch.zeros(1, requires_grad=True)]
        self.decoder_optimizer = torch.optim.AdamW(decoder, lr=config.decoder_lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.judge_optimizer = torch.optim.AdamW(self.judge.parameters(), lr=2e-4, betas=(0.5, 0.9), fused=fused)
        self.steps, self.seconds, self.arrived = 0, 0.0, 0
        self.sums: dict[str, Tensor] = {}

    def take_samples(self, most: int) -> None:
        """Put what has been rendered into the stores."""
        for _ in range(most):
            try:
                sample = self.renderers.waiting.get_nowait()
            except queue.Empty:
                return
            (self.photo_store if len(sample.target) == 1 else self.store).add(sample)
            self.arrived += 1

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return min(1.0, max(self.seconds / 60 / self.config.minutes, self.steps / self.config.max_steps))

    @property
    def lr_share(self) -> float:
        """Linear warm-up, a flat middle, and a fall over the last 60 %."""
        fall = max(0.0, (self.progress - 0.4) / 0.6)
        low = self.config.final_lr
        return min(1.0, (self.steps + 1) / self.config.warmup) * (
            low + (1 - low) * 0.5 * (1 + math.cos(math.pi * fall))
        )

    # One step, top to bottom.

    def step(self) -> None:
        """Draw a batch, noise it, predict, compare, update."""
        c, device = self.config, self.config.device
        still = len(self.photo_store) >= c.photos and torch.rand(()) < c.photo_share
        store, count, frames = (self.photo_store, c.photos, 1) if still else (self.store, c.clips, c.frames)
        history = 0 if still or torch.rand(()) > 1 - sum(c.branches) else c.adapter.num_history
        rows = torch.randint(len(store), (count,), device=device)
        window = frames + history
        start = torch.randint(store.target.shape[1] - window + 1, (count, 1), device=device)
        batch = store.batch(rows, start + torch.arange(window, device=device))
        branch = self._branch(history)
        past = self._history(batch, history) if history else None
        batch = {k: v[:, history:] if v.ndim >= 4 and k != "source_z" else v for k, v in batch.items()}
        conditions = self._conditions(batch, past)
        sigma = self._levels(count)
        noise = torch.randn_like(batch["z"])
        wide = sigma[:, None, None, None, None]
        clean = self._inputs(batch, conditions, branch)
        z = (1 - wide) * clean + wide * noise
        with autocast(self.kind, torch.bfloat16):
            velocity = self.denoiser(z, sigma, conditions=conditions, branch=branch)
        found = z - wide * velocity.float()

        mask = batch["driver"][:, :, 3:].flatten(0, 1)
        near = 1 + (REGION_WEIGHT - 1) * F.max_pool2d(mask, 8).unflatten(0, (count, frames))
        latent = (near * (found - batch["z"]).square()).mean() + 0.1 * charbonnier(found - batch["z"], near, 1e-2)
        each = torch.arange(count, device=device)[:, None]
        shown = torch.randint(max(frames - 1, 1), (count, 1), device=device)  # of each clip, two frames on end
        shown = torch.cat([shown, shown + 1], 1) if frames > 1 else shown
        truth = batch["target"][each, shown].flatten(0, 1).float() / 255
        mask = mask.unflatten(0, (count, frames))[each, shown].flatten(0, 1)
        weight = 1 + (REGION_WEIGHT - 1) * mask
        true_z = batch["z"][each, shown].flatten(0, 1)
        with autocast(self.kind, torch.bfloat16):
            made = self.autoencoder.taesd_decoder(found[each, shown].flatten(0, 1)).float()
        pictured, parts = self._pictured(made, truth, weight)
        if frames > 1:
            change = (made - truth).unflatten(0, (count, 2)).diff(dim=1)[:, 0]
            pictured = pictured + c.temporal * charbonnier(change, weight[::2])
        loss = c.latent * latent + pictured
        if self.progress > c.adversarial_from - 0.05 and branch in ("d", "p"):
            real = batch["real"].repeat_interleave(shown.shape[1])
            loss = loss + self._adversarial(made, truth, mask, real, pictured)
        if self.decoder:
            with autocast(self.kind, torch.bfloat16):
                again = self.autoencoder.taesd_decoder(true_z[::3]).float()
            loss = loss + 0.5 * self._pictured(again, truth[::3], weight[::3])[0]
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 2.0)
        self.optimizer.step(self.lr_share)
        if self.decoder:
            nn.utils.clip_grad_norm_(self.decoder, 1.0)
            self.decoder_optimizer.param_groups[0]["lr"] = c.decoder_lr * self.lr_share
            self.decoder_optimizer.step()
            self.decoder_optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            decay = min(c.ema, (1 + self.steps) / (10 + self.steps))
            weights = [p.detach() for p in self.averaged]
            torch._foreach_lerp_(self.average, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self.steps += 1
        self._note({"latent": latent, **parts})

    def _pictured(self, made: Tensor, truth: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of decoded pictures (B, 3, H, W), and its parts."""
        c, error = self.config, made - truth
        with autocast(self.kind, torch.bfloat16):
            pairs = zip(features(self.autoencoder, made), features(self.autoencoder, truth), strict=True)
            unlike = cast(Tensor, sum(charbonnier(a - b) for a, b in pairs))
        decoded = charbonnier(error, weight) + 0.5 * gradient_loss(error, weight)
        edges = edge_strength_loss(made, truth, weight)
        parts = {"decoded": decoded, "features": unlike, "edges": edges}
        return c.decoded * decoded + c.features * unlike + c.edges * edges, parts

    def _branch(self, history: int) -> Branch:
        if history:
            return "p"
        u, s, d = self.config.branches
        draws = float(torch.rand(())) * (u + s + d)
        return "u" if draws < u else "s" if draws < u + s else "d"

    def _levels(self, count: int) -> Tensor:
        c = self.config
        shares = torch.tensor([*c.level_shares, 1 - sum(c.level_shares)])
        which = torch.multinomial(shares, count, replacement=True)
        spread = 0.05 + 0.95 * torch.rand(count)
        levels = torch.tensor([*c.levels, 0.0])[which]
        return torch.where(which == len(c.levels), spread, levels).to(c.device)

    def _conditions(self, batch: Mapping[str, Tensor], past: Tensor | None) -> Conditions:
        """Signals of the batch; sometimes without the driver or without the posed source."""
        c, draws = self.config, float(torch.rand(()))
        driver = torch.zeros_like(batch["driver"]) if draws < c.drop_driver else batch["driver"]
        driver = recoloured(driver, c.grey_driver)
        posed = draws >= c.drop_driver + c.drop_posed or draws < c.drop_driver
        return Conditions(
            source=batch["source_z"], driving_pixels=driver, history=past,
            posed_pixels=batch["posed"] if posed else None, posed=batch["posed_z"] if posed else None,
        )  # fmt: skip

    @torch.no_grad()
    def _predict(self, batch: Mapping[str, Tensor], conditions: Conditions, branch: Branch) -> Tensor:
        """Clean latents in one step from pure noise."""
        z = torch.randn_like(batch["z"])
        ones = torch.ones(len(z), device=z.device)
        with autocast(self.kind, torch.bfloat16):
            return z - self.denoiser(z, ones, conditions=conditions, branch=branch).float()

    def _history(self, batch: Mapping[str, Tensor], count: int) -> Tensor:
        """The frames before, as they are or as the model would make them, with a little noise."""
        first = {k: v[:, :count] if v.ndim >= 4 and k != "source_z" else v for k, v in batch.items()}
        past = first["z"]
        if float(torch.rand(())) < self.config.own_share:
            past = self._predict(first, self._conditions(first, None), "d")
        amount = 0.1 * torch.rand(len(past), 1, 1, 1, 1, device=past.device)
        return (1 - amount) * past + amount * torch.randn_like(past)

    def _inputs(self, batch: Mapping[str, Tensor], conditions: Conditions, branch: Branch) -> Tensor:
        """What is noised: the truth, the model's own prediction, or the posed source."""
        draws = float(torch.rand(()))
        if draws < self.config.draft_share and branch in ("d", "p"):
            return batch["posed_z"]
        if draws < self.config.draft_share + (1 - self.config.draft_share) * self.config.own_share and self.steps > 200:
            return self._predict(batch, conditions, branch)
        return batch["z"]

    def _adversarial(self, made: Tensor, truth: Tensor, mask: Tensor, real: Tensor, others: Tensor) -> Tensor:
        """Update the discriminator, and what the model is told; only pictures whose truth is real count.

        Its gradient in the pictures is `adversarial` times that of the `others`' loss (Esser et al. 2021, equation 7).
        """
        if int(real.sum()) < 2:
            return made.new_zeros(())
        mask, true = mask[real], truth[real]
        fake = made[real].clamp(-0.05, 1.05)
        with autocast(self.kind, torch.bfloat16):
            high, low = self.judge(true, mask)[0].float(), self.judge(fake.detach(), mask)[0].float()
        weight = 1 + (REGION_WEIGHT - 1) * F.interpolate(mask, high.shape[-2:], mode="area")
        judge_loss = (weight * (F.relu(1 - high) + F.relu(1 + low))).mean() / weight.mean()
        judge_loss.backward()
        self.judge_optimizer.step()
        self.judge_optimizer.zero_grad(set_to_none=True)
        self._note({"judge": judge_loss})
        ramp = min(1.0, max(0.0, (self.progress - self.config.adversarial_from) / 0.1))
        if not ramp:
            return made.new_zeros(())
        self.judge.requires_grad_(False)
        with autocast(self.kind, torch.bfloat16):
            score, found = self.judge(fake, mask)
            wanted = self.judge(true, mask)[1]
        self.judge.requires_grad_(True)
        match = sum(F.l1_loss(a.float(), b.float().detach()) for a, b in zip(found, wanted, strict=True))
        fooled = -(weight * score.float()).mean() / weight.mean() + 2 * cast(Tensor, match)
        own = torch.autograd.grad(fooled, made, retain_graph=True)[0].norm()
        scale = self.config.adversarial * torch.autograd.grad(others, made, retain_graph=True)[0].norm() / (own + 1e-8)
        self._note({"fooled": fooled, "scale": scale})
        return ramp * scale.clamp(max=100.0) * fooled

    def _note(self, values: Mapping[str, Tensor]) -> None:
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, torch.zeros((), device=value.device)) + value.detach()
            count = key + ".n"
            self.sums[count] = self.sums.get(count, torch.zeros(())) + 1

    # Watching and saving.

    def swap_average(self) -> None:
        """Exchange the weights with their running average."""
        with torch.no_grad():
            for own, mean in zip(self.averaged, self.average, strict=True):
                kept = own.detach().clone()
                own.copy_(mean)
                mean.copy_(kept)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out PSNR in dB of the average weights: by kind, all and inside the regions, beside the posed source."""
        self.swap_average()
        values: dict[str, list[float]] = {}
        chance = torch.Generator().manual_seed(7)
        for name, batch in self.heldout:
            conditions = Conditions(
                source=batch["source_z"], driving_pixels=batch["driver"], posed_pixels=batch["posed"],
                posed=batch["posed_z"],
            )  # fmt: skip
            noise = torch.randn(batch["z"].shape, generator=chance).to(batch["z"].device)
            truth, mask = batch["target"].flatten(0, 1).float() / 255, batch["driver"][:, :, 3:].flatten(0, 1)
            rows = {"draft": batch["posed"][:, :, :3].flatten(0, 1), "draft_ae": self._decode(batch["posed_z"])}
            for steps in (1, 2, 4):
                rows[f"{steps}"] = self._decode(self.sample(noise, conditions, steps))
            for key, made in rows.items():
                gap = (made - truth).square()
                inside = (gap * mask).sum() / (3 * mask.sum()).clamp(min=1)
                values.setdefault(f"{name}/{key}", []).append(-10 * math.log10(float(gap.mean()) + 1e-9))
                values.setdefault(f"{name}/{key}/in", []).append(-10 * math.log10(float(inside) + 1e-9))
                values.setdefault(f"{name}/{key}/sharp", []).append(float(_detail(made) / _detail(truth)))
                ratio = _detail(made, mask) / _detail(truth, mask)
                values.setdefault(f"{name}/{key}/sharp/in", []).append(float(ratio))
            if not (self.out / "samples").is_dir():
                (self.out / "samples").mkdir()
            _write_sheet(self.out / "samples" / f"{name}.jpg", truth, *rows.values())
        self.swap_average()
        return {k: round(float(np.mean(v)), 3) for k, v in values.items()}

    def sample(self, noise: Tensor, conditions: Conditions, steps: int, branch: Branch = "d") -> Tensor:
        """Clean latents in few Euler steps, shift 3."""
        t = torch.linspace(1, 0, steps + 1)
        levels = (3 * t / (1 + 2 * t)).tolist()
        z = noise
        for now, then in pairwise(levels):
            with autocast(self.kind, torch.bfloat16):
                level = torch.full((len(z),), now, device=z.device)
                v = self.denoiser(z, level, conditions=conditions, branch=branch)
            z = z + (then - now) * v.float()
        return z

    def _decode(self, latents: Tensor) -> Tensor:
        with autocast(self.kind, torch.bfloat16):
            return self.autoencoder.decode(latents.flatten(0, 1)).float()

    def save(self) -> None:
        """Averaged weights as users get them, and all that a later run needs."""
        self.swap_average()
        folder = self.out / "weights"
        folder.mkdir(exist_ok=True)
        settings = {
            k: v
            for k, v in asdict(self.config).items()
            if k not in ("metadata", "start", "device", "workers", "threads")
        }
        training = {
            "step": self.steps, "minutes": round(self.seconds / 60, 1), "samples": self.arrived, "settings": settings,
        }  # fmt: skip
        info = {**METADATA, **self.config.metadata}
        save_transformer(
            folder / "base.part", self.denoiser.transformer, {**info, "training": json.dumps(training)}, torch.float16
        )
        file = AdapterFile(self.denoiser.adapter, {}, {**info, "training": training})
        save_adapter(folder / "adapter.part", file)
        if self.decoder:
            self.autoencoder.save(folder / "autoencoder.safetensors", {"modelspec.license": METADATA["license"]})
        self.swap_average()
        os.replace(folder / "base.part", folder / "base.safetensors")
        os.replace(folder / "adapter.part", folder / "adapter.safetensors")
        state = {
            "model": self.denoiser.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict(),
            "decoder": self.autoencoder.state_dict(), "decoder_optimizer": self.decoder_optimizer.state_dict(),
            "judge": self.judge.state_dict(), "judge_optimizer": self.judge_optimizer.state_dict(),
            "steps": self.steps, "seconds": self.seconds, "arrived": self.arrived,
        }  # fmt: skip
        torch.save(state, self.out / "checkpoint.part")
        os.replace(self.out / "checkpoint.part", self.out / "checkpoint.pt")

    def load(self) -> None:
        """Continue from the checkpoint in the output folder."""
        state = torch.load(self.out / "checkpoint.pt", map_location=self.config.device, weights_only=True)
        self.denoiser.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.autoencoder.load_state_dict(state["decoder"])
        self.decoder_optimizer.load_state_dict(state["decoder_optimizer"])
        self.judge.load_state_dict(state["judge"])
        self.judge_optimizer.load_state_dict(state["judge_optimizer"])
        for own, saved in zip(self.average, state["average"], strict=True):
            own.copy_(saved)
        self.steps, self.seconds, self.arrived = state["steps"], state["seconds"], state["arrived"]


def _detail(pictures: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute Laplacian of the grey pictures, inside the mask if there is one."""
    grey = pictures.mean(1, keepdim=True)
    found = (grey - F.avg_pool2d(grey, 3, 1, 1)).abs()
    return found.mean() if mask is None else (found * mask).sum() / mask.sum().clamp(min=1)


def _write_sheet(path: Path, *rows: Tensor) -> None:
    import cv2

    shown = [torch.cat(list(row[:: max(1, len(row) // 8)][:8].clamp(0, 1)), -1) for row in rows]
    sheet = (torch.cat(shown, -2).permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    cv2.imwrite(str(path), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def _draw_one(task: tuple[int, str]) -> PosedSample:
    assert _WORLD is not None
    return make_sample(np.random.default_rng(task[0]), _WORLD, cast(Any, task[1]))


def draw_heldout(world: World, config: FewStepConfig) -> list[PosedSample]:
    """Samples of people that training does not see: photos, and a sixth as many rendered and real clips each."""
    few = max(2, config.heldout // 6)
    counts = {"rendered": few, "photo": config.heldout, "clip": few if world.clips else 0}
    tasks = [(900 + n, kind) for kind, count in counts.items() for n in range(count)]
    if config.workers == 1:
        return [make_sample(np.random.default_rng(seed), world, cast(Any, kind)) for seed, kind in tasks]
    with _CONTEXT.Pool(config.workers, _enter, (world,)) as pool:
        return pool.map(_draw_one, tasks, chunksize=1)


def _batches(
    config: FewStepConfig, samples: Sequence[PosedSample], autoencoder: TinyAutoencoder
) -> list[tuple[str, dict[str, Tensor]]]:
    """The held-out samples by kind, at most eight at once."""
    found = []
    for kind in dict.fromkeys(sample.kind for sample in samples):
        own = [sample for sample in samples if sample.kind == kind]
        frames, size = len(own[0].target), len(own[0].source)
        store = Store(len(own), frames, size, autoencoder, config.device)
        for sample in own:
            store.add(sample)
        for rows in torch.arange(len(own), device=config.device).split(8):
            which = torch.arange(min(frames, config.frames), device=config.device).expand(len(rows), -1)
            found.append((kind, store.batch(rows, which)))
    return found


def train(
    config: FewStepConfig,
    autoencoder: TinyAutoencoder,
    renderers: Renderers,
    heldout: Sequence[PosedSample],
    out: Path,
    resume: bool = False,
) -> Path:
    """Train until time is up; returns the folder of the averaged weights.

    `out` receives weights/, samples/, checkpoint.pt and log.jsonl. Raises UserError if there is a run in the way, or
    none to resume.
    """
    if (out / "checkpoint.pt").is_file() != resume:
        what = "holds no run to resume" if resume else "holds a run already: resume it, or choose another folder"
        raise UserError(f"{out} {what}")
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = Run(config, autoencoder, renderers, heldout, out)
    if resume:
        run.load()
    else:
        (out / "config.json").write_text(json.dumps(asdict(config), indent=1, default=str), encoding="utf-8")
    try:
        _loop(run)
    finally:
        run.renderers.close()
    return out / "weights"


def _loop(run: Run) -> None:
    c = run.config
    while len(run.store) < min(2 * c.clips, run.store.capacity) or len(run.photo_store) < min(
        8, run.photo_store.capacity
    ):
        run.take_samples(64)
        if not any(process.is_alive() for process in run.renderers.processes):
            raise UserError("the processes that render samples have ended: see their messages above")
        time.sleep(0.05)
    last = shown = saved = time.monotonic()
    count = run.steps
    while run.progress < 1:
        run.take_samples(8)
        run.step()
        now = time.monotonic()
        run.seconds, last = run.seconds + now - last, now
        if now - shown > c.eval_every or run.progress >= 1:
            pace = (now - shown) / max(run.steps - count, 1)
            line: dict[str, Any] = {
                "step": run.steps, "minutes": round(run.seconds / 60, 2), "arrived": run.arrived,
                "s_per_step": round(pace, 3), "lr": round(run.lr_share, 4),
            }  # fmt: skip
            for key in [k for k in run.sums if not k.endswith(".n")]:
                line[key] = round(float(run.sums[key]) / float(run.sums[key + ".n"]), 5)
            run.sums = {}
            line |= run.evaluate()
            log.info("%s", json.dumps(line))
            with (run.out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            shown, count = time.monotonic(), run.steps
        if now - saved > c.save_every:
            run.save()
            saved = now
    run.save()
