"""Training of the posed model for few steps: flow and picture losses, a discriminator, samples rendered meanwhile.

One step reads top to bottom in `FewStepTrainer.step`: draw a batch, noise it, predict, compare, update.
It is no case of `loop.py`, whose steps are functions of the seed, on many devices, over a curriculum of stored latents.
Optimiser, average, checkpoints, schedule and exported files are the same.
A bare machine will do: PyTorch, NumPy, numba, einops, OpenCV, safetensors and diffusers.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, autocast, nn
from torch.nn import functional as F

from ..errors import UserError
from ..model.autoencoder import FACTOR, TinyAutoencoder
from ..model.flow import add_noise
from ..model.fusion import Branch
from ..model.streams import Conditions
from .checkpoint import LAST, Progress, load_checkpoint, save_checkpoint
from .data.posed import PosedSample
from .data.store import SampleBatch, SamplePool, heldout_batches, recoloured
from .discriminator import Discriminator, balance, discriminator_loss, generator_loss
from .ema import Ema
from .fewstep_config import FewStepConfig
from .optim import build_optimizer, set_learning_rate
from .picture_loss import charbonnier, edge_strength_loss, feature_loss, gradient_loss
from .schedule import learning_rate, progress_at
from .setup import build_posed_denoiser, export_weights, open_gates
from .validation import validate

log = logging.getLogger(__name__)

METADATA = {"title": "Stable Video-Driven Portraits, mini", "license": "Apache-2.0"}
REGION_WEIGHT = 6.0  # of the loss inside eyes, nose and mouth
FLAT = 0.4  # progress until which the learning rates stay at their peak
OWN_FROM = 200  # step from which inputs may be the model's own predictions


class FewStepTrainer:
    """Weights, optimisers and clock of a run. `step` is one update; `train` does everything."""

    def __init__(
        self,
        config: FewStepConfig,
        autoencoder: TinyAutoencoder,
        samples: SamplePool,
        heldout: Sequence[PosedSample],
        out: Path,
    ) -> None:
        self.config, self.samples, self.out = config, samples, out
        self.device = torch.device(config.device)
        self.autoencoder = _with_trained_decoder(autoencoder, config.decoder_lr > 0)
        self.heldout = heldout_batches(heldout, config.frames, autoencoder, config.device)
        self.denoiser = build_posed_denoiser(config)
        self.discriminator = Discriminator().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        generator = nn.ModuleDict({"denoiser": self.denoiser, "decoder": autoencoder.taesd_decoder})
        open_gates(self.denoiser.adapter, 0, config.gate_steps)  # before it is seen what is trained
        self.trained = nn.ModuleDict(
            {**generator, "discriminator": self.discriminator}
        )  # with names for the checkpoint
        self.ema = Ema(generator, config.ema)
        self.weights = [p for p in self.denoiser.parameters() if p.requires_grad]
        self.decoder = [p for p in autoencoder.taesd_decoder.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.denoiser, config.optim)
        if self.decoder:
            scale = config.decoder_lr / config.lr
            self.optimizer.add_param_group({"params": self.decoder, "weight_decay": 0.0, "scale": scale})
        self.discriminator_optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.9), fused=True
        )
        self.progress = Progress()
        self.means = Means()

    @property
    def share(self) -> float:
        """Share of the budget that is spent."""
        return progress_at(self.config, self.progress.step, self.progress.seconds)

    @property
    def arrived(self) -> int:
        """Samples rendered so far, over all parts of the run."""
        return self.progress.samples + self.samples.arrived

    def step(self) -> None:
        """One update: draw a batch, noise it, predict, compare, update."""
        c, share = self.config, self.share
        open_gates(self.denoiser.adapter, self.progress.step, c.gate_steps)

        # Draw clips, some with the frames before them, or photos.
        enough = c.inverse_pairs and len(self.samples.photos) >= c.photos
        photos = enough and float(torch.rand(())) < c.photo_share
        history = 0 if photos or float(torch.rand(())) > 1 - sum(c.branches) else c.adapter.num_history
        frames = 1 if photos else c.frames
        store, count = (self.samples.photos, c.photos) if photos else (self.samples.clips, c.clips)
        batch = store.draw(count, history + frames, rendered_only=not c.inverse_pairs)
        branch = draw_branch(c.branches, history)
        past = self._history(batch.frames(slice(history))) if history else None
        batch = batch.frames(slice(history, None))
        conditions = self._conditions(batch, past)

        # Noise them.
        sigmas = draw_levels(count, c).to(self.device)
        noise = torch.randn_like(batch.target)
        noisy = add_noise(self._inputs(batch, conditions, branch), noise, sigmas)

        # Predict clean latents, and decode one or two neighbouring frames of each clip.
        with autocast(self.device.type, torch.bfloat16):
            velocity = self.denoiser(noisy, sigmas, conditions=conditions, branch=branch)
        predicted = noisy - sigmas[:, None, None, None, None] * velocity.float()
        shown = draw_shown(count, frames, self.device)
        made = self._decode(_at(predicted, shown))

        # Compare latents and pictures with the truth, most of all in the regions; keep the decoder a decoder.
        mask = batch.driving_pixels[:, :, 3:]
        latent = latent_loss(predicted, batch.target, mask)
        truth, mask = _at(batch.target_pixels, shown).float() / 255, _at(mask, shown)
        weight = 1 + (REGION_WEIGHT - 1) * mask
        pictured, parts = self._picture_loss(made, truth, weight)
        if frames > 1:
            change = (made - truth).unflatten(0, (count, 2)).diff(dim=1)[:, 0]
            pictured = pictured + c.temporal * charbonnier(change, weight[::2])
        loss = c.latent * latent + pictured
        if share > c.adversarial_from - 0.05 and branch in ("d", "p"):
            real = batch.real.repeat_interleave(shown.shape[1])
            loss = loss + self._adversarial_loss(made, truth, mask, real, pictured)
        if self.decoder:
            again = self._decode(_at(batch.target, shown)[::3])
            loss = loss + 0.5 * self._picture_loss(again, truth[::3], weight[::3])[0]

        # Update weights and their average.
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 2.0)
        nn.utils.clip_grad_norm_(self.decoder, 1.0)
        set_learning_rate(self.optimizer, learning_rate(c.optim, self.progress.step, share, FLAT))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()
        self.progress.step += 1
        self.means.add({"loss": loss, "latent": latent, **parts})

    # Parts of a step, in the order of their use.

    def _history(self, first: SampleBatch) -> Tensor:
        """The frames before, as they are or as the model would make them, with a little noise."""
        past = first.target
        if float(torch.rand(())) < self.config.own_share:
            past = self._predict(first, self._conditions(first, None), "d")
        amount = 0.1 * torch.rand(len(past), 1, 1, 1, 1, device=past.device)
        return (1 - amount) * past + amount * torch.randn_like(past)

    def _conditions(self, batch: SampleBatch, past: Tensor | None) -> Conditions:
        """Signals of the batch; sometimes without the driver or without the posed source."""
        c, chance = self.config, float(torch.rand(()))
        driver = chance >= c.drop_driver
        posed = c.adapter.posed and not c.drop_driver <= chance < c.drop_driver + c.drop_posed
        conditions = batch.conditions(driver, posed, past)
        assert conditions.driving_pixels is not None
        return replace(conditions, driving_pixels=recoloured(conditions.driving_pixels, c.grey_driver))

    def _inputs(self, batch: SampleBatch, conditions: Conditions, branch: Branch) -> Tensor:
        """What is noised: the truth, the model's own prediction, or the posed source."""
        c, chance = self.config, float(torch.rand(()))
        if chance < c.draft_share and branch in ("d", "p"):
            return batch.posed
        if chance < c.draft_share + (1 - c.draft_share) * c.own_share and self.progress.step > OWN_FROM:
            return self._predict(batch, conditions, branch)
        return batch.target

    @torch.no_grad()
    def _predict(self, batch: SampleBatch, conditions: Conditions, branch: Branch) -> Tensor:
        """Clean latents in one step from pure noise."""
        z = torch.randn_like(batch.target)
        ones = torch.ones(len(z), device=z.device)
        with autocast(self.device.type, torch.bfloat16):
            return z - self.denoiser(z, ones, conditions=conditions, branch=branch).float()

    def _decode(self, latents: Tensor) -> Tensor:
        with autocast(self.device.type, torch.bfloat16):
            return self.autoencoder.taesd_decoder(latents).float()

    def _picture_loss(self, made: Tensor, truth: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of decoded pictures (B, 3, H, W), and its parts."""
        c, error = self.config, made - truth
        with autocast(self.device.type, torch.bfloat16):
            unlike = feature_loss(self.autoencoder, made, truth)
        decoded = charbonnier(error, weight) + 0.5 * gradient_loss(error, weight)
        edges = edge_strength_loss(made, truth, weight)
        parts = {"decoded": decoded, "features": unlike, "edges": edges}
        return c.decoded * decoded + c.features * unlike + c.edges * edges, parts

    def _adversarial_loss(self, made: Tensor, truth: Tensor, mask: Tensor, real: Tensor, others: Tensor) -> Tensor:
        """Update the discriminator on pictures whose truth is real, then the loss that it gives the model."""
        c = self.config
        if int(real.sum()) < 2:
            return made.new_zeros(())
        fake, true, mask = made[real].clamp(-0.05, 1.05), truth[real], mask[real]
        own_loss = discriminator_loss(self.discriminator, fake, true, mask, REGION_WEIGHT)
        own_loss.backward()
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        self.means.add({"discriminator": own_loss})
        ramp = min(1.0, max(0.0, (self.share - c.adversarial_from) / 0.1))
        if not ramp:
            return made.new_zeros(())
        fooled = generator_loss(self.discriminator, fake, true, mask, REGION_WEIGHT)
        scale = c.adversarial * balance(fooled, others, made)
        self.means.add({"generator": fooled, "scale": scale})
        return ramp * scale.clamp(max=100.0) * fooled

    # Watching and saving.

    def validate(self) -> dict[str, float]:
        """Held-out quality of the averaged weights."""
        with self.ema.applied():
            return validate(self.denoiser, self.autoencoder, self.heldout, self.out / "samples")

    def save(self) -> None:
        """Averaged weights as users get them, and a checkpoint."""
        settings = {k: v for k, v in asdict(self.config).items() if k not in ("metadata", "device", "threads", "start")}
        training = {
            "step": self.progress.step,
            "minutes": round(self.progress.seconds / 60, 1),
            "samples": self.arrived,
            "settings": settings,
        }
        folder = self.out / "weights"
        with self.ema.applied():
            export_weights(
                self.denoiser,
                folder,
                {**METADATA, **self.config.metadata, "training": training},
                with_base=not self.config.base,
            )
            if self.decoder:
                self.autoencoder.save(folder / "autoencoder.safetensors", {"modelspec.license": METADATA["license"]})
        progress = replace(self.progress, samples=self.arrived)
        save_checkpoint(
            self.out / LAST, progress, self.trained, [self.optimizer, self.discriminator_optimizer], self.ema
        )

    def resume(self) -> None:
        """Go on from the checkpoint in the output folder. Raises `UserError` if it is of another model."""
        parts = self.trained, [self.optimizer, self.discriminator_optimizer], self.ema
        self.progress = load_checkpoint(self.out / LAST, *parts)


class Means:
    """Means of scalars between two lines of the log, kept on their device."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in a value of each."""
        for key, value in values.items():
            self.values.setdefault(key, []).append(value.detach())

    def take(self) -> dict[str, float]:
        """The means; they start anew."""
        means = {key: float(torch.stack(values).mean()) for key, values in self.values.items()}
        self.values = {}
        return means


def draw_branch(shares: tuple[float, float, float], history: int) -> Branch:
    """The branch that a batch trains: p with history, else u, s or d by their shares."""
    if history:
        return "p"
    u, s, d = shares
    chance = float(torch.rand(())) * (u + s + d)
    return "u" if chance < u else "s" if chance < u + s else "d"


def draw_levels(count: int, config: FewStepConfig) -> Tensor:
    """Noise levels (count,): those of the few steps by their shares, else uniform from 0.05 to 1."""
    shares = torch.tensor([*config.level_shares, 1 - sum(config.level_shares)])
    which = torch.multinomial(shares, count, replacement=True)
    spread = 0.05 + 0.95 * torch.rand(count)
    return torch.where(which == len(config.levels), spread, torch.tensor([*config.levels, 0.0])[which])


def draw_shown(count: int, frames: int, device: torch.device) -> Tensor:
    """Indices (count, 2) of two neighbouring frames of each clip, (count, 1) of a photo's only one."""
    first = torch.randint(max(frames - 1, 1), (count, 1), device=device)
    return torch.cat([first, first + 1], 1) if frames > 1 else first


def _at(clips: Tensor, shown: Tensor) -> Tensor:
    """Frames `shown` (B, n) of clips (B, F, ...) as (B * n, ...)."""
    rows = torch.arange(len(clips), device=clips.device)[:, None]
    return clips[rows, shown].flatten(0, 1)


def latent_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Squared error of latents (B, F, 16, h, w), plus L1; the regions of the mask (B, F, 1, H, W) count more."""
    near = F.max_pool2d(mask.flatten(0, 1), FACTOR).unflatten(0, mask.shape[:2])
    near, error = 1 + (REGION_WEIGHT - 1) * near, predicted - target
    return (near * error.square()).mean() + 0.1 * charbonnier(error, near, 1e-2)


def _with_trained_decoder(autoencoder: TinyAutoencoder, trained: bool) -> TinyAutoencoder:
    """The autoencoder frozen but for its decoder, if that is trained; blocks that are left out stay so."""
    autoencoder.requires_grad_(False)
    if trained:
        autoencoder.taesd_decoder.requires_grad_(True)
    for block in autoencoder.taesd_decoder.modules():
        if getattr(block, "skipped", False):
            block.requires_grad_(False)
    return autoencoder


def train(
    config: FewStepConfig,
    autoencoder: TinyAutoencoder,
    samples: SamplePool,
    heldout: Sequence[PosedSample],
    out: Path,
    resume: bool = False,
) -> Path:
    """Train until the budget is spent; returns the folder of the averaged weights.

    `out` receives weights/, samples/, last.safetensors, config.json and log.jsonl. Raises UserError if there is a run
    in the way, or none to resume.
    """
    if (out / LAST).is_file() != resume:
        what = "holds no run to resume" if resume else "holds a run already: resume it, or choose another folder"
        raise UserError(f"{out} {what}")
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    trainer = FewStepTrainer(config, autoencoder, samples, heldout, out)
    if resume:
        trainer.resume()
    else:
        (out / "config.json").write_text(json.dumps(asdict(config), indent=1, default=str), encoding="utf-8")
    samples.wait(2 * config.clips, 8)
    _loop(trainer)
    return out / "weights"


def _loop(trainer: FewStepTrainer) -> None:
    c, progress = trainer.config, trainer.progress
    last = shown = saved = time.monotonic()
    count = progress.step
    while trainer.share < 1:
        trainer.samples.take(8)
        trainer.step()
        now = time.monotonic()
        progress.seconds, last = progress.seconds + now - last, now
        if now - shown > c.eval_every or trainer.share >= 1:
            _report(trainer, (now - shown) / max(progress.step - count, 1))
            shown, count = time.monotonic(), progress.step
        if now - saved > c.save_every:
            trainer.save()
            saved = now
    trainer.save()


def _report(trainer: FewStepTrainer, pace: float) -> None:
    """A line of the log: losses since the last one, held-out quality."""
    progress = trainer.progress
    line: dict[str, Any] = {
        "step": progress.step,
        "minutes": round(progress.seconds / 60, 2),
        "arrived": trainer.arrived,
        "s_per_step": round(pace, 3),
        **{key: round(value, 5) for key, value in trainer.means.take().items()},
        **trainer.validate(),
    }
    log.info("%s", json.dumps(line))
    with (trainer.out / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
