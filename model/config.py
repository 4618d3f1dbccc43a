"""Frozen settings of the method, saved as JSON in the adapter file; each refuses nonsense at birth."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

from ..errors import UserError

Conditioning = Literal["cached", "joint"]
DrivingForm = Literal["both", "tokens", "aligned"]
SourceForm = Literal["tokens", "both"]
AlignedForm = Literal["latents", "pixels"]
T = TypeVar("T")

REGIONS = ("eyes", "nose", "mouth")
REMOVED_SETTINGS = {"source_density": 1}  # older adapter files may hold these, at this value only


def from_json(cls: type[T], data: dict[str, Any]) -> T:
    """Build a settings dataclass from its JSON form; lists become tuples, unknown keys raise `UserError`."""
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - known)
    if unknown:
        raise UserError(f"unknown settings for {cls.__name__}: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})


@dataclass(frozen=True, kw_only=True)
class BaseArchitecture:
    """Shape of an SD3-family transformer (MMDiT / MMDiT-X): what an adapter must fit."""

    width: int
    depth: int
    heads: int
    dual_blocks: tuple[int, ...] = ()
    channels: int = 16
    patch: int = 2
    table_size: int = 384  # side of the positional table, in patches
    context_dim: int = 4096
    pooled_dim: int = 2048
    qk_norm: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(f"base width {self.width} is not a multiple of its {self.heads} heads")

    def __str__(self) -> str:
        dual = f"dual attention in {len(self.dual_blocks)} blocks" if self.dual_blocks else "no dual attention"
        return f"SD3 transformer, width {self.width}, {self.depth} blocks, {self.heads} heads, {dual}"

    def to_json(self) -> dict[str, Any]:
        """JSON form, inverse of `from_json(BaseArchitecture, ...)`."""
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
    segment_length: int = 16  # new frames per segment
    num_history: int = 3  # clean frames of the segment before
    resolution: int = 512  # pixels, what it was trained at
    crop_scale: float = 1.9  # side of the crop / size of the face, what it was trained at (signals.crops)
    regions: tuple[str, ...] = REGIONS
    video_width: int = 0  # inner width of full-video attention; 0: half of the base's width
    video_head_dim: int = 64
    video_scope: Literal["full", "position"] = "full"  # position: attention over time at the same place only
    video_blocks: tuple[int, ...] | None = None  # None: all
    rotary_theta: float = 256.0
    context_tokens: int = 4  # length of the learned empty-prompt context
    token_multiple: int = 8  # kept driving tokens are rounded up to this

    def __post_init__(self) -> None:
        if self.conditioning not in ("cached", "joint"):
            raise UserError(f"conditioning must be 'cached' or 'joint', got {self.conditioning!r}")
        if self.driving not in ("both", "tokens", "aligned"):
            raise UserError(f"driving must be 'both', 'tokens' or 'aligned', got {self.driving!r}")
        if self.source not in ("tokens", "both"):
            raise UserError(f"source must be 'tokens' or 'both', got {self.source!r}")
        if self.aligned not in ("latents", "pixels"):
            raise UserError(f"aligned must be 'latents' or 'pixels', got {self.aligned!r}")
        if self.copy_gate and not self.posed:
            raise UserError("copy_gate needs posed = true: there is nothing else to copy")
        if self.video_scope not in ("full", "position"):
            raise UserError(f"video_scope must be 'full' or 'position', got {self.video_scope!r}")
        if self.segment_length < 1 or self.num_history < 0:
            raise UserError(f"segment_length {self.segment_length} and num_history {self.num_history} must be positive")
        if self.inner_width % self.video_head_dim:
            raise UserError(
                f"full-video attention width {self.inner_width} is not a multiple of head size {self.video_head_dim}"
            )
        bad = [i for i in self.blocks_with_video if not 0 <= i < self.base.depth]
        if bad:
            raise UserError(f"video_blocks names blocks {bad}, but the base has {self.base.depth}")

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


def adapter_config_from_json(data: dict[str, Any]) -> AdapterConfig:
    """Inverse of `AdapterConfig.to_json`; also reads files that still have a setting of `REMOVED_SETTINGS`.

    Raises `UserError` if a removed setting is not at its default, or a setting is unknown.
    """
    for name, default in REMOVED_SETTINGS.items():
        if data.get(name, default) != default:
            raise UserError(
                f"the adapter was trained with {name} = {data[name]}, which this version no longer supports "
                f"(only {default}): use an older version, or train the adapter again"
            )
    base = from_json(BaseArchitecture, data["base"])
    kept = {k: v for k, v in data.items() if k not in REMOVED_SETTINGS}
    return from_json(AdapterConfig, {**kept, "base": base})


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How a video is cut: new frames per segment, history frames carried over."""

    length: int = 16
    num_history: int = 3

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"segment length must be at least 1 frame, got {self.length}")
        if not 0 <= self.num_history <= self.length:
            raise UserError(f"history must be between 0 and the segment length {self.length}, got {self.num_history}")


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Weights of the four-branch fusion (paper, signal fusion), with optional ranges and region strengths.

    A range is (start, end) as fractions of the sampling schedule; outside it that signal's weight is 0. `rescale` takes
    the contrast that the weights add back to that of the prediction without them: 0 not at all, 1 wholly.
    """

    source: float = 2.0
    driving: float = 2.5
    history: float = 1.0
    rescale: float = 0.0
    source_range: tuple[float, float] = (0.0, 1.0)
    driving_range: tuple[float, float] = (0.0, 1.0)
    history_range: tuple[float, float] = (0.0, 1.0)
    eyes: float = 1.0
    nose: float = 1.0
    mouth: float = 1.0

    def __post_init__(self) -> None:
        for name in ("source_range", "driving_range", "history_range"):
            start, end = getattr(self, name)
            if not 0.0 <= start <= end <= 1.0:
                raise UserError(f"fusion {name} must satisfy 0 <= start <= end <= 1, got ({start}, {end})")
        if not 0.0 <= self.rescale <= 1.0:
            raise UserError(f"fusion rescale must be between 0 and 1, got {self.rescale}")

    @property
    def region_strengths(self) -> tuple[float, float, float]:
        """Strength of the driver in eyes, nose, mouth (order of `REGIONS`)."""
        return (self.eyes, self.nose, self.mouth)
