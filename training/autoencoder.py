"""Train the tiny autoencoder from random weights to share the latent space of a teacher of the same form (TAESD3).

The encoder regresses the teacher's latents; the decoder rebuilds the pictures from them, later also from the encoder's.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, autocast, nn
from torch.nn import functional as F

from ..errors import UserError
from ..model.autoencoder import WIDTH, TinyAutoencoder
from ..model.checks import convert
from .checkpoint import LAST, Progress, load_checkpoint, run_folder, save_checkpoint
from .config import OptimSettings
from .data.autoencoder_pictures import CropsConfig, build_crops, find_files
from .ema import Ema
from .optim import MuonAdamW, set_learning_rate
from .picture_loss import charbonnier, gradient_loss
from .schedule import learning_rate, progress_at
from .tables import table_at

log = logging.getLogger(__name__)

LOG, WEIGHTS = "log.jsonl", "autoencoder.safetensors"


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """A run of `train`. Paths are relative to the folder of the configuration file (or as given)."""

    teacher: str  # an autoencoder in TAESD form, or the encoder of a pair of files
    teacher_decoder: str = ""
    pictures: tuple[str, ...] = ()  # glob patterns of pictures, animations and videos
    manifest: str = ""  # manifest.csv; only rows that may train bundled weights
    start: str = ""  # weights to begin with instead of random ones
    skipped_blocks: tuple[str, ...] = ()  # left out of the model, such as "taesd_decoder.17": less to compute
    crops_file: str = ""  # where the crops are kept; empty: in the output folder
    crops: CropsConfig = field(default_factory=CropsConfig)
    crop: int = 96  # side of the random part of a crop that a step sees
    batch: int = 12
    steps: int = 5000
    seconds: float = 0  # wall time after which the schedule ends, whatever `steps` says; 0: no limit
    lr: float = 1e-3  # AdamW: biases, first and last layers
    muon_lr: float = 1.2e-2  # Muon: the 64x64 convolutions
    final_lr: float = 0.02  # share of `lr` left at the end
    warmup: int = 100
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    own_latents: tuple[float, float] = (0.3, 0.6)  # progress at which the decoder starts to see own latents, sees half
    blackout: float = 0.12  # share of pictures of which all but a few ellipses is black
    bf16: bool = True
    device: str = "cpu"
    threads: int = 0  # 0: torch's choice
    log_every: int = 20
    save_every: int = 200
    seed: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)  # into the saved weights

    def __post_init__(self) -> None:
        if self.crop % 8 or not 0 < self.crop <= self.crops.size:
            raise UserError(f"crop must be a multiple of 8 up to crops.size {self.crops.size}, got {self.crop}")
        if min(self.batch, self.steps, self.log_every, self.save_every) < 1 or self.lr <= 0:
            raise UserError("batch, steps, log_every, save_every and lr must be positive")
        if not self.pictures and not self.manifest and not self.crops_file:
            raise UserError("the autoencoder needs training pictures: set pictures, manifest or crops_file")

    @property
    def minutes(self) -> float:
        """The budget of time; 0: no limit."""
        return self.seconds / 60

    @property
    def optim(self) -> OptimSettings:
        """Peak rates, warm-up and the end of the cosine."""
        return OptimSettings(
            name="muon", lr=self.lr, muon_lr=self.muon_lr, final_lr=self.final_lr, warmup=self.warmup,
            weight_decay=self.weight_decay, ema=self.ema,
        )  # fmt: skip

    @classmethod
    def from_table(cls, table: Mapping[str, Any], root: Path) -> "AutoencoderConfig":
        """Settings of a TOML table (its key `kind` is ignored). Raises UserError on unknown keys."""
        values = {key: value for key, value in table.items() if key != "kind"}
        for key in ("crops", "metadata"):
            table_at(values, key, "the configuration")
        for key, kind in (("crops", CropsConfig), ("", cls)):
            known = {f.name for f in fields(kind)}
            unknown = sorted(set(values.get(key, {}) if key else values) - known)
            if unknown:
                names, where = ", ".join(unknown), f"[{key}]" if key else "the configuration"
                raise UserError(f"unknown settings {names} in {where}: known are {', '.join(sorted(known))}")
        crops = convert(CropsConfig, values.pop("crops", {}), "[crops]")
        values = convert(cls, values, "the configuration:")
        for key in ("teacher", "teacher_decoder", "manifest", "crops_file", "start"):
            if values.get(key):
                values[key] = str(root / values[key])
        if not values.get("teacher"):
            raise UserError("the configuration names no teacher: set `teacher` to an autoencoder in TAESD form")
        values["pictures"] = tuple(str((root / p).absolute()) for p in values.get("pictures", ()))
        return cls(crops=CropsConfig(**crops), **values)


# --- pictures of a step: a pure function of (seed, step), so that a resumed run sees the same ones ------------------


def draw_pictures(crops: Tensor, cfg: AutoencoderConfig, step: int) -> Tensor:
    """Pictures (B, 3, crop, crop) float32 in [0, 1] of one step: parts, flipped, recoloured, some blacked out.

    `crops` (N, S, S, 3) uint8 lies on the device that computes.
    """
    chance = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
    draw = lambda *shape: torch.rand(*shape, generator=chance).to(crops.device)  # noqa: E731
    picked = (draw(cfg.batch) * len(crops)).long()
    corners = (draw(2, cfg.batch, 1) * (crops.shape[1] - cfg.crop + 1)).long()
    along = torch.arange(cfg.crop, device=crops.device)
    columns = torch.where(draw(cfg.batch, 1) < 0.5, along.flip(0), along)
    parts = crops[picked[:, None, None], (corners[0] + along)[:, :, None], (corners[1] + columns)[:, None]]
    pictures = parts.permute(0, 3, 1, 2).float() / 255
    gamma, gains = 0.7 + 0.7 * draw(cfg.batch, 1, 1, 1), 0.8 + 0.35 * draw(cfg.batch, 3, 1, 1)
    recoloured = (pictures**gamma * gains).clamp(0, 1)
    pictures = torch.where(draw(cfg.batch, 1, 1, 1) < 0.4, recoloured, pictures)
    hidden = (draw(cfg.batch, 1, 1, 1) < cfg.blackout) & ~_ellipses(draw, cfg.batch, cfg.crop)
    return (pictures * ~hidden).contiguous(memory_format=torch.channels_last)


def _ellipses(draw: Callable[..., Tensor], count: int, size: int) -> Tensor:
    """(count, 1, size, size) bool: the inside of one to three ellipses each, as a masked driver looks."""
    centre, radius = 0.1 + 0.8 * draw(count, 3, 2), 0.06 + 0.24 * draw(count, 3, 2)
    axis = torch.arange(size, device=centre.device) / size
    across = ((axis - centre[..., :1]) / radius[..., :1]).square()
    down = ((axis - centre[..., 1:]) / radius[..., 1:]).square()
    inside = across[:, :, None] + down[..., None] < 1
    inside[:, 1:] &= (draw(count, 2) < 0.5)[..., None, None]
    return inside.any(1, keepdim=True)


# --- losses ----------------------------------------------------------------------------------------------------------


def pyramid_error(error: Tensor, levels: int = 3) -> Tensor:
    """Charbonnier of a Laplacian pyramid (band-passed by 2x2 means), coarse bands weighted up by their size."""
    total = error.new_zeros(())
    for level in range(levels):
        coarse = F.avg_pool2d(error, 2)
        total = total + 2**level * charbonnier(error - F.interpolate(coarse, scale_factor=2.0))
        error = coarse
    return total + 2**levels * charbonnier(error)


def picture_loss(y: Tensor, x: Tensor) -> Tensor:
    """What the decoder minimises; all terms are linear in the error, so the pyramid is taken of it at once."""
    error = (y - x).float()
    return charbonnier(error) + gradient_loss(error) + 0.5 * pyramid_error(error)


def latent_loss(z: Tensor, teacher: Tensor) -> Tensor:
    """What the encoder minimises: squared error, plus L1 to keep going when it is small."""
    error = (z - teacher).float()
    return error.square().mean() + 0.2 * charbonnier(error, eps=1e-2)


def psnr(y: Tensor, x: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1] (y is clamped), over the whole batch; a scalar."""
    return -10 * (y.float().clamp(0, 1) - x).square().mean().clamp(min=1e-10).log10()


# --- the loop --------------------------------------------------------------------------------------------------------


class _Run:
    """Everything that a checkpoint holds, and one step."""

    def __init__(self, cfg: AutoencoderConfig, out: Path) -> None:
        torch.manual_seed(cfg.seed)
        self.cfg, self.out = cfg, out
        self.teacher = TinyAutoencoder.load(cfg.teacher, cfg.teacher_decoder or None)
        self.teacher = self.teacher.to(cfg.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model = TinyAutoencoder.load(cfg.start).requires_grad_(True).train() if cfg.start else TinyAutoencoder()
        model.skip_blocks({*cfg.skipped_blocks, *model.skipped_blocks})
        self.model: TinyAutoencoder = model.to(cfg.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = _build_optimizer(self.model, cfg.optim)
        self.ema = Ema(self.model, cfg.ema)
        self.progress = Progress()

    @property
    def share(self) -> float:
        """Share of the schedule that is done, by steps or by wall time, whichever is further."""
        return progress_at(self.cfg, self.progress.step, self.progress.seconds)

    @property
    def rate(self) -> float:
        """The learning rate of AdamW."""
        return learning_rate(self.cfg.optim, self.progress.step, self.share)

    def own_share(self) -> float:
        """Share of the decoder's pictures that are rebuilt from the encoder's own latents."""
        start, full = self.cfg.own_latents
        return 0.5 * min(1.0, max(0.0, (self.share - start) / max(full - start, 1e-6)))

    def losses(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(latent loss, picture loss, pictures), the encoder untouched by the second."""
        with autocast(torch.device(self.cfg.device).type, torch.bfloat16, enabled=self.cfg.bf16):
            with torch.no_grad():
                teacher = self.teacher.encode(x)
            own = self.model.encode(x)
            generator = torch.Generator().manual_seed(self.cfg.seed * 1_000_003 + self.progress.step)
            swap = (torch.rand(len(x), 1, 1, 1, generator=generator) < self.own_share()).to(x.device)
            y = self.model.taesd_decoder(torch.where(swap, own.detach(), teacher))
        return latent_loss(own, teacher), picture_loss(y, x), y

    def train_step(self, x: Tensor) -> dict[str, Tensor]:
        """One update; returns what is logged."""
        set_learning_rate(self.optimizer, self.rate)
        latent, picture, y = self.losses(x)
        (latent + picture).backward()
        for part in (self.model.taesd_encoder, self.model.taesd_decoder):
            nn.utils.clip_grad_norm_(part.parameters(), self.cfg.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()
        self.progress.step += 1
        return {"latent": latent.detach(), "picture": picture.detach(), "psnr": psnr(y.detach(), x)}

    def save(self) -> None:
        """Checkpoint and averaged weights, each complete or not there."""
        save_checkpoint(self.out / LAST, self.progress, self.model, [self.optimizer], self.ema)
        with self.ema.applied():
            header = {**self.cfg.metadata, "svdp.training_steps": str(self.progress.step)}
            self.model.save(self.out / WEIGHTS, header)

    def resume(self) -> None:
        """Continue from the checkpoint in the output folder."""
        self.progress = load_checkpoint(self.out / LAST, self.model, [self.optimizer], self.ema)


def _build_optimizer(model: TinyAutoencoder, optim: OptimSettings) -> torch.optim.Optimizer:
    """Muon for the inner convolutions, 64 channels to 64, AdamW for the first and last ones and biases."""
    trained = [p for p in model.parameters() if p.requires_grad]
    inner = [p for p in trained if p.shape[:2] == (WIDTH, WIDTH)]
    outer = [p for p in trained if p.shape[:2] != (WIDTH, WIDTH)]
    groups = [{"params": outer}, {"params": inner, "muon": True, "scale": optim.muon_lr / optim.lr}]
    return MuonAdamW(groups, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)


def train(config: AutoencoderConfig, out: Path, resume: bool = False) -> Path:
    """Train until the schedule ends; returns the EMA weights (fp16 safetensors, rewritten at every checkpoint).

    `out` receives last.safetensors, log.jsonl and config.json. A resumed run continues bit for bit as if never stopped
    (but for the part of the schedule that goes by wall time). Raises UserError if there is nothing to resume, or
    something in the way.
    """
    out = Path(out)
    found = (out / LAST).is_file()
    if resume and not found:
        raise UserError(f"nothing to resume: {out / LAST} does not exist; start without --resume")
    if found and not resume:
        raise UserError(f"{out} holds a run already: resume it, or choose another output folder")
    if config.threads:
        torch.set_num_threads(config.threads)
    with run_folder(out, out / LAST, out / "crops.npy"):
        crops = _crops(config, out)
        run = _Run(config, out)
        if resume:
            run.resume()
        else:
            (out / "config.json").write_text(json.dumps(asdict(config), indent=2), encoding="utf-8")
        _loop(run, crops)
    return out / WEIGHTS


def _crops(config: AutoencoderConfig, out: Path) -> Tensor:
    path = Path(config.crops_file) if config.crops_file else out / "crops.npy"
    if not path.is_file():
        manifest = Path(config.manifest) if config.manifest else None
        build_crops(find_files(config.pictures, manifest, Path.cwd()), path, config.crops)
    crops = np.load(path, mmap_mode="r")
    if crops.ndim != 4 or crops.shape[1] != crops.shape[2] or crops.shape[1] < config.crop or crops.shape[3] != 3:
        raise UserError(f"{path} must hold crops (N, S, S, 3) with S >= {config.crop}, got {crops.shape}: remove it")
    return torch.from_numpy(np.array(crops)).to(config.device)


def _loop(run: _Run, crops: Tensor) -> None:
    cfg = run.cfg
    sums: dict[str, Tensor] = {}
    last = time.monotonic()
    progress = run.progress
    while run.share < 1:
        values = run.train_step(draw_pictures(crops, cfg, progress.step))
        now = time.monotonic()
        progress.seconds, last = progress.seconds + now - last, now
        sums = {key: sums.get(key, 0) + value for key, value in values.items()}
        if progress.step % cfg.log_every == 0:
            line = {key: round(float(value) / cfg.log_every, 5) for key, value in sums.items()}
            _log_line(run, line)
            sums = {}
        if progress.step % cfg.save_every == 0:
            run.save()
    run.save()


def _log_line(run: _Run, values: dict[str, float]) -> None:
    line = {"step": run.progress.step, "seconds": round(run.progress.seconds, 1), "lr": round(run.rate, 8), **values}
    log.info("%s", "  ".join(f"{key} {value:.5g}" for key, value in line.items()))
    with (run.out / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
