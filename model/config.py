"""Frozen settings of the method, saved as JSON in the adapter file; each refuses nonsense at birth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from ..errors import UserError
from .checks import Within, build, check_fields, shortened

Conditioning = Literal["cached", "joint"]
DrivingForm = Literal["both", "tokens", "aligned"]
SourceForm = Literal["tokens", "both"]
AlignedForm = Literal["latents", "pixels"]
Solver = Literal["euler", "dpmpp_2m"]
Region = Literal["eyes", "nose", "mouth"]
Size = Annotated[int, Within(1, 65536)]  # of a layer
Share = Annotated[float, Within(0, 1)]
Weight = Annotated[float, Within(0, 100)]  # of a signal in the fusion

REGIONS: tuple[Region, ...] = ("eyes", "nose", "mouth")
MAX_STEPS, MAX_SEGMENT, MAX_RESOLUTION = 1000, 1024, 4096
REMOVED_SETTINGS = {"source_density": 1}  # older adapter files may hold these, at this value only


@dataclass(frozen=True, kw_only=True)
class BaseArchitecture:
    """Shape of an SD3-family transformer (MMDiT / MMDiT-X): what an adapter must fit."""

    width: Size
    depth: Annotated[int, Within(1, 256)]
    heads: Annotated[int, Within(1, 1024)]
    dual_blocks: tuple[int, ...] = ()
    channels: Annotated[int, Within(1, 1024)] = 16
    patch: Annotated[int, Within(1, 16)] = 2
    table_size: Annotated[int, Within(1, 4096)] = 384  # side of the positional table, in patches
    context_dim: Size = 4096
    pooled_dim: Annotated[int, Within(0, 65536)] = 2048
    qk_norm: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        if self.width % self.heads:
            raise UserError(f"base width {self.width} is not a multiple of its {self.heads} heads")
        if self.width % 4:
            raise UserError(f"base width {self.width} is not a multiple of 4, as its positional table needs")
        _check_blocks("dual_blocks", self.dual_blocks, self.depth)

    def __str__(self) -> str:
        dual = f"dual attention in {len(self.dual_blocks)} blocks" if self.dual_blocks else "no dual attention"
        return f"SD3 transformer, width {self.width}, {self.depth} blocks, {self.heads} heads, {dual}"

    def to_json(self) -> dict[str, Any]:
        """JSON form, inverse of `checks.build(BaseArchitecture, ...)`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What an adapter is: the base it fits, the form of conditioning it was trained for, its own sizes."""

    base: BaseArchitecture
    conditioning: Conditioning = "cached"
    driving: DrivingForm = "both"
    source: SourceForm = "tokens"  # both: its latents are also added to the noisy tokens at the same place
    aligned: AlignedForm = "latents"  # how the aligned driver enters; pixels need no encoder and lose no detail
    posed: bool = False  # the source posed by its 3D head enters, aligned, as pixels with the mask of what is known
    copy_gate: bool = False  # what is right in the posed source is passed on: x0 = m * posed + (1 - m) * network
    gate: Literal["learned", "open"] = "learned"  # learned: conditions enter through a per-block gate, zero at start
    segment_length: Annotated[int, Within(1, MAX_SEGMENT)] = 16  # new frames per segment
    num_history: Annotated[int, Within(0, MAX_SEGMENT)] = 3  # clean frames of the segment before
    resolution: Annotated[int, Within(8, MAX_RESOLUTION)] = 512  # pixels, what it was trained at
    crop_scale: Annotated[float, Within(1, 4)] = 1.9  # side of the crop / size of the face in training (signals.crops)
    regions: tuple[Region, ...] = REGIONS
    video_width: Annotated[int, Within(0, 65536)] = 0  # inside full-video attention; 0: half of the base's width
    video_head_dim: Annotated[int, Within(2, 1024)] = 64
    video_scope: Literal["full", "position"] = "full"  # position: attention over time at the same place only
    video_blocks: tuple[int, ...] | None = None  # None: all
    rotary_theta: Annotated[float, Within(1, 1e9)] = 256.0
    context_tokens: Annotated[int, Within(1, 4096)] = 4  # length of the learned empty-prompt context
    token_multiple: Annotated[int, Within(1, 4096)] = 8  # kept driving tokens are rounded up to this

    def __post_init__(self) -> None:
        check_fields(self)
        if self.copy_gate and not self.posed:
            raise UserError("copy_gate needs posed = true: there is nothing else to copy")
        if not self.regions or len(set(self.regions)) < len(self.regions):
            raise UserError(f"regions must name one or more of {', '.join(REGIONS)}, each once, got {self.regions}")
        if self.video_head_dim % 2:
            raise UserError(f"video_head_dim must be even, got {self.video_head_dim}")
        if not self.inner_width or self.inner_width % self.video_head_dim:
            raise UserError(
                f"full-video attention width {self.inner_width} is not a multiple of head size {self.video_head_dim}"
            )
        _check_blocks("video_blocks", self.video_blocks or (), self.base.depth)

    @property
    def inner_width(self) -> int:
        """Width inside full-video attention."""
        return self.video_width or self.base.width // 2

    @property
    def blocks_with_video(self) -> tuple[int, ...]:
        """Indices of the blocks that are followed by full-video attention."""
        return tuple(range(self.base.depth)) if self.video_blocks is None else self.video_blocks

    @property
    def uses_tokens(self) -> bool:
        """Whether the driver enters as tokens beside the noise (the paper's form)."""
        return self.driving in ("both", "tokens")

    @property
    def uses_aligned(self) -> bool:
        """Whether the driver's latents are added, aligned, to the noisy tokens."""
        return self.driving in ("both", "aligned")

    @property
    def uses_driving_latents(self) -> bool:
        """Whether the driver has to be encoded."""
        return self.uses_tokens or self.aligned == "latents"

    def to_json(self) -> dict[str, Any]:
        """JSON form, inverse of `adapter_config_from_json`."""
        return asdict(self)


def adapter_config_from_json(data: dict[str, Any], where: str = "adapter settings") -> AdapterConfig:
    """Inverse of `AdapterConfig.to_json`; also reads files that still have a setting of `REMOVED_SETTINGS`.

    Raises `UserError` that begins with `where` if a removed setting is not at its default, or a setting is unknown,
    missing, of another type or out of range.
    """
    for name, default in REMOVED_SETTINGS.items():
        if data.get(name, default) != default:
            raise UserError(
                f"{where}: the adapter was trained with {name} = {shortened(data[name])}, which this version no longer "
                f"supports (only {default}): use an older version, or train the adapter again"
            )
    return build(AdapterConfig, {k: v for k, v in data.items() if k not in REMOVED_SETTINGS}, where)


def _check_blocks(name: str, blocks: tuple[int, ...], depth: int) -> None:
    bad = [i for i in blocks if not 0 <= i < depth]
    if bad:
        raise UserError(f"{name} names blocks {shortened(bad)}, but the base has {depth}")
    if len(set(blocks)) < len(blocks):
        raise UserError(f"{name} names a block twice: {shortened(blocks)}")


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How a video is cut: new frames per segment, history frames carried over."""

    length: Annotated[int, Within(1, MAX_SEGMENT)] = 16
    num_history: Annotated[int, Within(0, MAX_SEGMENT)] = 3

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.num_history <= self.length:
            raise UserError(f"history must be between 0 and the segment length {self.length}, got {self.num_history}")


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Weights of the four-branch fusion (paper, signal fusion), with optional ranges and region strengths.

    A range is (start, end) as fractions of the sampling schedule; outside it that signal's weight is 0. `rescale` takes
    the contrast that the weights add back to that of the prediction without them: 0 not at all, 1 wholly.
    """

    source: Weight = 2.0
    driving: Weight = 2.5
    history: Weight = 1.0
    rescale: Share = 0.0
    source_range: tuple[float, float] = (0.0, 1.0)
    driving_range: tuple[float, float] = (0.0, 1.0)
    history_range: tuple[float, float] = (0.0, 1.0)
    eyes: Weight = 1.0
    nose: Weight = 1.0
    mouth: Weight = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("source_range", "driving_range", "history_range"):
            start, end = getattr(self, name)
            if not 0.0 <= start <= end <= 1.0:
                raise UserError(f"fusion {name} must satisfy 0 <= start <= end <= 1, got ({start}, {end})")

    @property
    def region_strengths(self) -> tuple[float, float, float]:
        """Strength of the driver in eyes, nose, mouth (order of `REGIONS`)."""
        return (self.eyes, self.nose, self.mouth)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How to sample: steps, sigma shift, solver, seed, fusion weights, noise added to history (0: clean)."""

    steps: Annotated[int, Within(1, MAX_STEPS)] = 20
    shift: Annotated[float, Within(0.01, 100)] = 3.0
    solver: Solver = "euler"
    seed: Annotated[int, Within(0, 2**64 - 1)] = 0
    fusion: FusionConfig = field(default_factory=FusionConfig)
    history_noise: Share = 0.0
    start: Annotated[float, Within(0.001, 1)] = 1.0  # noise level to begin at: below 1 from the posed source

    def __post_init__(self) -> None:
        check_fields(self)


def sampling_from_info(info: Mapping[str, Any], where: str = "the adapter file's info") -> SamplingConfig:
    """How an adapter file says to sample (`info["sampling"]`), over the usual values.

    A file that does not tell its shift may still tell the one that it was trained with. Raises `UserError` that begins
    with `where` if a setting is unknown, of another type or out of range.
    """
    own = info.get("sampling")
    config = build(SamplingConfig, {} if own is None else own, f"{where} sampling")
    trained: Any = info
    for key in ("training", "settings", "loss", "shift"):
        trained = trained.get(key) if isinstance(trained, Mapping) else None
    if trained is None or (own and "shift" in own):
        return config
    return replace(config, shift=build(_Shift, {"shift": trained}, f"{where} training settings loss").shift)


PRESETS = ("faithful", "balanced", "fast")
FAITHFUL_STEPS = 40


def by_preset(own: SamplingConfig, preset: str) -> SamplingConfig:
    """An adapter's own sampling, changed as a preset says.

    faithful: the paper's 40 steps and fusion weights 2 / 2.5 / 1, so that all four branches are computed. balanced: as
    it is. fast: half the steps. Raises `UserError` if there is no such preset.
    """
    if preset == "faithful":
        usual = FusionConfig()
        fusion = replace(own.fusion, source=usual.source, driving=usual.driving, history=usual.history)
        return replace(own, steps=FAITHFUL_STEPS, fusion=fusion)
    if preset == "fast":
        return replace(own, steps=max(1, own.steps // 2))
    if preset != "balanced":
        raise UserError(f"unknown preset {preset!r}: choose among {', '.join(PRESETS)}")
    return own


@dataclass(frozen=True)
class _Shift:
    shift: Annotated[float, Within(0.01, 100)]
