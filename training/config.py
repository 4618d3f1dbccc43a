"""Settings of a training run: one TOML file, read into frozen dataclasses that refuse nonsense at birth."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..model.checks import build, check_fields
from ..model.config import AdapterConfig, BaseArchitecture
from ..model.fusion import BRANCHES
from .tables import read_toml, table_at, tables_at

__all__ = ["TrainConfig", "config_from_json", "load_config", "parse_config", "read_toml", "with_overrides"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _require_share(name: str, value: float) -> None:
    _require(0.0 <= value <= 1.0, f"{name} must be between 0 and 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """The base model: its shape, and the trained weights to start from (which must have that shape), if any."""

    architecture: BaseArchitecture
    path: str = ""  # diffusers folder or single file; empty: random weights
    train: bool = True  # train the base's own weights too; off: adapter (and LoRA) only
    dtype: Literal["float32", "bfloat16"] = "float32"  # of a frozen base's weights
    attention_init: Literal["random", "local"] = "random"  # local: see training.attention_init; of random weights only

    def __post_init__(self) -> None:
        _require(self.train or bool(self.path), "[base] train = false needs `path`: random weights are of no use")
        _require(not self.train or self.dtype == "float32", "[base] dtype is for a base that is not trained")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Shards and augmentation. File patterns are relative to `root`, a folder or a location such as s3://bucket/data."""

    root: str = "."
    train: tuple[str, ...] = ("train/*.tar",)
    heldout: tuple[str, ...] = ("heldout/*.tar",)
    target_source: float = 0.2  # share of samples whose source is a far frame of the clip itself
    source_distance: int = 4  # how far such a frame must be from the window, in frames
    region_dropout: float = 0.05  # chance that a region is taken from the driver of a sample, for each region
    driver_dropout: float = 0.01  # chance that the driver of a sample shows nothing at all
    driver_noise: float = 0.0  # standard deviation of noise on the driver's latents
    reverse: float = 0.0  # chance that a window is played backwards
    stream_shards: int = 0  # training shards held in memory at a time; 0: all of them
    stream_every: int = 20  # steps until the oldest of those gives way to another

    def __post_init__(self) -> None:
        for name in ("target_source", "region_dropout", "driver_dropout", "reverse"):
            _require_share(f"[data] {name}", getattr(self, name))
        _require(self.stream_shards >= 0, f"[data] stream_shards must be 0 or more, got {self.stream_shards}")
        _require(self.stream_every >= 1, f"[data] stream_every must be 1 or more, got {self.stream_every}")


@dataclass(frozen=True, kw_only=True)
class BranchProbabilities:
    """How often a micro-batch trains each branch of the fusion; what a branch lacks is absent, not zeroed."""

    u: float = 0.05
    s: float = 0.1
    d: float = 0.85
    p: float = 0.0

    def __post_init__(self) -> None:
        values = self.values
        assert len(values) == len(BRANCHES)
        _require(min(values) >= 0 and sum(values) > 0, f"branch probabilities must be positive, got {values}")

    @property
    def values(self) -> tuple[float, ...]:
        """Relative probabilities in the order of `BRANCHES`."""
        return (self.u, self.s, self.d, self.p)


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """One stage of the curriculum: it lasts until this share of the budget is spent."""

    until: float = 1.0
    batch: int = 8  # clips in a micro-batch, per process
    frames: int = 8  # new frames
    history: int = 0  # clean frames before them
    history_noise: float = 0.0  # highest noise level (0 to 1) of the history
    strides: tuple[int, ...] = (1,)  # distance between the frames of a window, drawn at random
    branches: BranchProbabilities = BranchProbabilities()

    def __post_init__(self) -> None:
        _require_share("[[stage]] until", self.until)
        _require(
            min(self.batch, self.frames, *self.strides) >= 1, "[[stage]] batch, frames and strides must be 1 or more"
        )
        _require(self.history >= 0, f"[[stage]] history must be 0 or more, got {self.history}")
        _require(
            self.history > 0 or self.branches.p == 0,
            "[[stage]] branch p needs history frames: set history, or branches.p = 0",
        )


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Noise levels drawn, and what counts more."""

    shift: float = 3.0  # of the noise levels, as in sampling
    mean: float = 0.0  # of the logit-normal before the shift
    std: float = 1.0
    eyes: float = 1.0  # weight of the error in each region of the driver; 1: like everything else
    nose: float = 1.0
    mouth: float = 1.0
    weighting: Literal["none", "sigma"] = "none"  # sigma: squared error of x0 instead of the velocity's

    def __post_init__(self) -> None:
        _require(self.shift > 0 and self.std > 0, "[loss] shift and std must be positive")
        _require(min(self.region_weights) > 0, "[loss] eyes, nose and mouth must be positive")

    @property
    def region_weights(self) -> tuple[float, float, float]:
        """Weights in the order of `REGIONS`."""
        return (self.eyes, self.nose, self.mouth)


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """Linear warm-up and a cosine to `final_lr` of the peak; EMA of the weights. "muon": see `training.optim`."""

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 8e-4
    muon_lr: float = 1.2e-2  # peak, of the matrices that Muon updates
    final_lr: float = 0.02  # share of `lr` left at the end
    warmup: int = 150  # steps
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01  # on matrices only
    clip: float = 1.0  # gradient norm
    accumulate: int = 1  # micro-batches per step
    ema: float = 0.999  # decay, after a warm-up of (1 + n) / (10 + n)

    def __post_init__(self) -> None:
        _require(self.lr > 0 and self.clip > 0, "[optim] lr and clip must be positive")
        _require(self.warmup >= 0 and self.accumulate >= 1, "[optim] warmup must be >= 0 and accumulate >= 1")
        _require_share("[optim] final_lr", self.final_lr)
        _require_share("[optim] ema", self.ema)


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank deltas on the base's attention and feed-forward layers; rank 0: none."""

    rank: int = 0
    alpha: int = 0  # 0: as the rank

    def __post_init__(self) -> None:
        _require(self.rank >= 0, f"[lora] rank must be 0 or more, got {self.rank}")


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """What is logged and kept, and how often."""

    log_every: int = 20  # steps
    probe_every: int = 250  # steps between held-out losses and condition-swap gaps
    probe_clips: int = 8
    grid_minutes: float = 10.0  # 0: no sample grids
    grid_clips: int = 4
    grid_steps: int = 12
    grid_fusion: tuple[float, float, float] = (1.2, 1.3, 1.0)  # source, driving, history
    grid_video: bool = True  # the grids' clips as a video too
    autoencoder: str = ""  # TAESD-form safetensors, for the grids; empty: no grids
    checkpoint_minutes: float = 5.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run. The budget is `steps`, or `minutes` of training time; with both, whatever ends first."""

    base: BaseSettings
    adapter: AdapterConfig
    stages: tuple[StageSettings, ...]
    start: str = ""  # adapter file to start from, of the same form (the base's weights: [base] path); empty: untrained
    name: str = "run"
    seed: int = 0
    steps: int = 0
    minutes: float = 0.0
    precision: Literal["no", "bf16", "bf16-weights", "fp16"] = "bf16"  # bf16-weights: see training.bf16_copy
    gate_steps: int = 0  # steps in which the conditions' gates open evenly; 0: they are learned, if the adapter has any
    gradient_checkpointing: bool = False
    compile: bool = False
    sharding: Literal["none", "fsdp"] = "none"  # fsdp: split weights, gradients, optimiser among processes
    data: DataSettings = DataSettings()
    loss: LossSettings = LossSettings()
    optim: OptimSettings = OptimSettings()
    lora: LoraSettings = LoraSettings()
    watch: WatchSettings = WatchSettings()
    info: dict[str, str] | None = None  # goes into the saved files: title, licence, ...

    def __post_init__(self) -> None:
        check_fields(self)
        _require(self.steps > 0 or self.minutes > 0, "set a budget: `steps` or `minutes`")
        _require(len(self.stages) > 0, "at least one [[stage]] is needed")
        ends = [s.until for s in self.stages]
        _require(
            ends == sorted(set(ends)) and ends[-1] == 1.0,
            f"the stages' `until` must rise and end at 1.0, got {ends}",
        )
        if self.sharding == "fsdp":
            _require(
                self.precision in ("no", "bf16"), f"sharding works with precision no or bf16, not {self.precision}"
            )
            _require(self.optim.name == "adamw", f"sharding works with [optim] name adamw, not {self.optim.name}")
            _require(self.base.dtype == "float32", "sharding needs one precision of weights: [base] dtype float32")
        known = ("no", "bf16", "bf16-weights", "fp16")
        _require(self.precision in known, f"precision must be one of {', '.join(known)}, got {self.precision}")

    @property
    def window(self) -> int:
        """Most frames that a clip must have: those of the longest stage at its smallest stride."""
        return max((s.frames + s.history - 1) * min(s.strides) + 1 for s in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists, for the checkpoint and the saved files."""
        return asdict(self)


def parse_config(table: dict[str, Any], name: str = "configuration") -> TrainConfig:
    """A `TrainConfig` from the TOML table; `[[stage]]` is the curriculum, the adapter fits `[base.architecture]`.

    `drop_history = true` takes the history out of every stage and of the adapter.

    Raises `UserError` that names the setting.
    """
    table = dict(table)
    architecture = table_at(table_at(table, "base", name), "architecture", f"{name}: base") or None
    for stage in tables_at(table, "stage", name):
        table_at(stage, "branches", f"{name}: stage")
    if architecture is None:
        raise UserError(f"{name}: [base.architecture] is missing: width, depth, heads, ...")
    if table.pop("drop_history", False):
        table = _without_history(table)
    adapter = {**table_at(table, "adapter", name), "base": architecture}
    table = {**table, "stages": table.get("stage", []), "adapter": adapter}
    table = {k: v for k, v in table.items() if k not in ("stage", "kind")}  # `kind` tells `svdp train` what to train
    return build(TrainConfig, table, name)


def _without_history(table: dict[str, Any]) -> dict[str, Any]:
    """The same run without history: no stage has any, and what branch p trained, d does."""
    stages = []
    for stage in table.get("stage", []):
        branches = dict(stage.get("branches", {}))
        if "p" in branches:
            branches["d"] = branches.get("d", BranchProbabilities.d) + branches.pop("p")
        plain = {k: v for k, v in stage.items() if k != "history_noise"}
        stages.append({**plain, "history": 0, "branches": branches})
    return {**table, "stage": stages, "adapter": {**table.get("adapter", {}), "num_history": 0}}


def config_from_json(data: dict[str, Any]) -> TrainConfig:
    """Inverse of `TrainConfig.to_json`; settings that are not in `data` get their defaults. Raises `UserError`."""
    return build(TrainConfig, data, "saved settings")


def load_config(path: str | Path) -> TrainConfig:
    """Read a TOML file. Raises `UserError` if it is missing, not TOML, or has a setting that cannot be."""
    path = Path(path)
    return parse_config({"name": path.stem, **read_toml(path)}, str(path))


def with_overrides(
    config: TrainConfig,
    *,
    data: str | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    base: str | None = None,
    start: str | None = None,
) -> TrainConfig:
    """The same run on other shards, with another budget (a given budget replaces the file's) or from other weights."""
    if base is not None:
        config = replace(config, base=replace(config.base, path=base))
    if start is not None:
        config = replace(config, start=start)
    if data is not None:
        config = replace(config, data=replace(config.data, root=data))
    if minutes is not None or steps is not None:
        config = replace(config, minutes=minutes or 0.0, steps=steps or 0)
    return config
