"""Settings of `svdp animate`, checked before any work. None means: as the adapter file says, else the usual value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from ..errors import UserError
from ..heads.controls import parse_edits
from ..model.checks import Within, check_fields, shortened
from ..model.config import MAX_RESOLUTION, MAX_SEGMENT, MAX_STEPS, PRESETS, Share, Solver, Weight

Count = Annotated[int, Within(0, 10**9)]  # of frames
MOTIONS = ("absolute", "relative")
DTYPES = ("auto", "float32", "bfloat16", "float16")
MOTION_FILES = ("motion_file", "save_motion")  # settings that are paths, beside media and weights
REGIONS = ("eyes", "nose", "mouth")


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """Where the model lies: a base, an adapter for it, an autoencoder."""

    base: Path
    adapter: Path
    autoencoder: Path


@dataclass(frozen=True, kw_only=True)
class AnimateConfig:
    """One picture, one driving clip, one output; and every dial."""

    source: Path
    driving: Path
    output: Path
    weights: WeightFiles
    strength: Annotated[float, Within(0, 100)] = 1.0
    preset: str = "balanced"
    steps: Annotated[int, Within(1, MAX_STEPS)] | None = None
    seed: Annotated[int, Within(0, 2**64 - 1)] = 0
    solver: str | None = None
    fusion_source: Weight | None = None
    fusion_driving: Weight | None = None
    fusion_history: Weight | None = None
    fusion_rescale: Share | None = None
    regions: tuple[str, ...] = REGIONS
    brows: bool = False
    dilation: Annotated[float, Within(0, 10)] = 0.16
    motion: str = "absolute"
    reference: Count = 0
    edit: str = ""
    motion_file: Path | None = None
    save_motion: Path | None = None
    resolution: Annotated[int, Within(64, MAX_RESOLUTION)] | None = None
    crop_scale: Annotated[float, Within(1, 4)] | None = None
    segment_length: Annotated[int, Within(1, MAX_SEGMENT)] | None = None
    history: Annotated[int, Within(0, MAX_SEGMENT)] | None = None
    history_noise: Share | None = None
    start_level: Annotated[float, Within(0.05, 1)] | None = None
    draft: bool = False
    detail: Share = 1.0
    paste_back: bool = True
    max_side: Annotated[int, Within(64, 65536)] = 1920
    start: Count = 0
    max_frames: Annotated[int, Within(1, 10**9)] | None = None
    select_face: str = "largest"
    source_face: str = "largest"
    device: str = "auto"
    dtype: str = "auto"
    contact_sheet: bool = True
    overwrite: bool = False
    resume: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        parse_edits(self.edit)
        unknown = [r for r in self.regions if r not in REGIONS]
        if unknown or not self.regions:
            raise UserError(f"unknown region {', '.join(unknown) or '(none)'}: choose among {', '.join(REGIONS)}")
        if self.motion not in MOTIONS:
            raise UserError(f"unknown motion {self.motion!r}: choose among {', '.join(MOTIONS)}")
        if self.preset not in PRESETS:
            raise UserError(f"unknown preset {self.preset!r}: choose among {', '.join(PRESETS)}")
        if self.solver is not None and self.solver not in get_args(Solver):
            raise UserError(f"unknown solver {self.solver!r}: choose among {', '.join(get_args(Solver))}")
        if self.dtype not in DTYPES:
            raise UserError(f"unknown dtype {self.dtype!r}: choose among {', '.join(DTYPES)}")
        if self.resolution is not None and self.resolution % 16:
            raise UserError(f"resolution must be a multiple of 16 and at least 64, got {self.resolution}")
        for name, face in (("select_face", self.select_face), ("source_face", self.source_face)):
            if not re.fullmatch(r"largest|left|right|[0-9]{1,4}", face):
                raise UserError(
                    f"{name} must be largest, left, right, or a number counted from the left from 0, got "
                    f"{shortened(face)}"
                )

    @property
    def moves(self) -> bool:
        """Whether the motion is to be changed, replaced or kept."""
        return bool(self.edit.strip()) or self.motion_file is not None or self.save_motion is not None


IN_MEMORY = Path("array")  # stands for a file name in messages and on the contact sheet
NO_FILES = WeightFiles(base=IN_MEMORY, adapter=IN_MEMORY, autoencoder=IN_MEMORY)  # of a draft, or a model in memory


def find_weights(
    folder: Path | None, base: Path | None = None, adapter: Path | None = None, autoencoder: Path | None = None
) -> WeightFiles:
    """The three files: given singly, or found by name in `folder`, by default the bundled model's.

    `folder` holds `*base.safetensors` and `*adapter.safetensors`, as training writes them, and may hold
    `*autoencoder.safetensors`; without it the bundled autoencoder is taken. A full-size `base` brings its own.
    Raises UserError naming what is missing.
    """
    bundled = Path(__file__).resolve().parents[1] / "assets"
    if base is not None and adapter is None and folder is None:
        raise UserError(f"--base {base} needs --adapter: the bundled adapter fits the bundled base alone")
    place = folder or bundled
    if not place.is_dir():
        raise UserError(f"weights folder {place} does not exist: check --weights")
    return WeightFiles(
        base=_existing(base or _only(place, "base")),
        adapter=_existing(adapter or _only(place, "adapter")),
        autoencoder=_existing(autoencoder or _find_autoencoder(place, base, bundled)),
    )


def _find_autoencoder(folder: Path, base: Path | None, bundled: Path) -> Path:
    if folder != bundled and _named(folder, "autoencoder"):
        return _only(folder, "autoencoder")
    return base or _only(bundled, "autoencoder")


def _named(folder: Path, what: str) -> list[Path]:
    pattern = f"*{what}.safetensors"
    return sorted(folder.glob(pattern)) or sorted(folder.glob(f"*/{pattern}"))  # ComfyUI lists files by folder


def _only(folder: Path, what: str) -> Path:
    found = _named(folder, what)
    if not found:
        raise UserError(f"there is no *{what}.safetensors in {folder}: give --{what}")
    if len(found) > 1:
        names = ", ".join(f.name for f in found)
        raise UserError(f"which {what} in {folder}: {names}? Choose one with --{what}")
    return found[0]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"weights {path} do not exist: check the path")
    return path
