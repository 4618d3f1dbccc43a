"""Settings of the few-step training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from ..model.config import AdapterConfig
from .config import LoraSettings, OptimSettings


@dataclass(frozen=True, kw_only=True)
class FewStepConfig:
    """A run of `fewstep.train`. Shares are of batches unless said otherwise.

    The budget is `steps`, or `minutes` of training; with both, whatever ends first.
    """

    adapter: AdapterConfig
    start: str = ""  # folder with *base and *adapter.safetensors to start from; empty: random weights
    base: str = ""  # file or folder of a base that stays as it is, such as SD 3.5 Medium; empty: it is trained, too
    lora: LoraSettings = field(default_factory=LoraSettings)  # deltas on that base
    gate_steps: int = 0  # steps in which the conditions' gates open evenly; 0: they are learned, if the adapter has any
    gradient_checkpointing: bool = False
    minutes: float = 600.0
    steps: int = 0  # 0: by time alone
    clips: int = 4  # clips in a batch
    frames: int = 8  # of a clip in a batch, history aside
    photos: int = 32  # single frames in a batch of photos
    photo_share: float = 0.25
    inverse_pairs: bool = True  # targets may be photos and real clips; else they are rendered
    lr: float = 6e-4
    muon_lr: float = 1e-2
    final_lr: float = 0.03  # share of the rates at the end
    warmup: int = 100
    ema: float = 0.999
    levels: tuple[float, ...] = (1.0, 0.9, 0.75, 0.5)  # noise levels of the few steps
    level_shares: tuple[float, ...] = (0.4, 0.1, 0.15, 0.1)  # of the samples; the rest is uniform from 0.05 to 1
    own_share: float = 0.5  # inputs and history are the model's own predictions
    draft_share: float = 0.1  # inputs are the posed source: sampling may start there
    drop_driver: float = 0.05
    drop_posed: float = 0.07
    branches: tuple[float, float, float] = (0.02, 0.04, 0.54)  # u, s, d; the rest is p
    latent: float = 0.3  # weight of the latents' loss
    decoded: float = 1.0  # weight of the decoded pictures' loss
    features: float = 0.6
    edges: float = 1.0  # weight of the local strength of edges: sharp, even where they are a little displaced
    temporal: float = 0.5  # weight of the change from one frame to the next
    adversarial: float = 0.5  # gradient of the discriminator's loss, relative to that of the other picture losses
    adversarial_from: float = 0.45  # progress at which the discriminator starts to count
    decoder_lr: float = 0.0  # of the autoencoder's decoder, which is then trained too; 0: frozen
    grey_driver: float = 0.35  # share of the drivers without colour; the others get another one
    eval_every: float = 60.0  # seconds
    save_every: float = 120.0  # seconds
    threads: int = 0  # 0: PyTorch's choice
    device: str = "cpu"
    seed: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)  # into the saved weights

    def __post_init__(self) -> None:
        if self.steps <= 0 and self.minutes <= 0:
            raise UserError("set a budget: steps or minutes")
        if min(self.clips, self.frames, self.photos) < 1:
            raise UserError("clips, frames and photos must be at least 1")
        if len(self.levels) != len(self.level_shares) or sum(self.level_shares) > 1:
            raise UserError("level_shares needs one share for each of levels, at most 1 together")
        if self.lora.rank and not self.base:
            raise UserError("[lora] needs a base that stays as it is: name its file in `base`, or set rank to 0")
        if self.draft_share and not self.adapter.posed:
            raise UserError("draft_share needs an adapter with posed = true: set it to 0")
        if sum(self.branches) > 1:
            raise UserError(f"branches are shares of u, s and d, at most 1 together, got {self.branches}")

    @property
    def optim(self) -> OptimSettings:
        """Muon for matrices, AdamW without weight decay for the rest."""
        return OptimSettings(
            name="muon", lr=self.lr, muon_lr=self.muon_lr, final_lr=self.final_lr, warmup=self.warmup,
            betas=(0.9, 0.98), weight_decay=0.0, ema=self.ema,
        )  # fmt: skip
