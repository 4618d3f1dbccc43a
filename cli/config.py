"""Settings of `svdp animate`, checked before any work. None means: as the adapter file says, else the usual value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

MOTIONS = ("absolute", "relative")
DTYPES = ("auto", "float32", "bfloat16", "float16")
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
    strength: float = 1.0
    steps: int | None = None
    seed: int = 0
    solver: str | None = None
    fusion_source: float | None = None
    fusion_driving: float | None = None
    fusion_history: float | None = None
    fusion_rescale: float | None = None
    regions: tuple[str, ...] = REGIONS
    brows: bool = False
    dilation: float = 0.16
    motion: str = "absolute"
    reference: int = 0
    edit: str = ""
    motion_file: Path | None = None
    save_motion: Path | None = None
    resolution: int | None = None
    crop_scale: float | None = None
    segment_length: int | None = None
    history: int | None = None
    history_noise: float | None = None
    start_level: float | None = None
    draft: bool = False
    detail: float = 1.0
    paste_back: bool = True
    max_side: int = 1920
    start: int = 0
    max_frames: int | None = None
    select_face: str = "largest"
    source_face: str = "largest"
    device: str = "auto"
    dtype: str = "auto"
    contact_sheet: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        unknown = [r for r in self.regions if r not in REGIONS]
        if unknown or not self.regions:
            raise UserError(f"unknown region {', '.join(unknown) or '(none)'}: choose among {', '.join(REGIONS)}")
        if self.motion not in MOTIONS:
            raise UserError(f"unknown motion {self.motion!r}: choose among {', '.join(MOTIONS)}")
        if self.dtype not in DTYPES:
            raise UserError(f"unknown dtype {self.dtype!r}: choose among {', '.join(DTYPES)}")
        if self.resolution is not None and (self.resolution < 64 or self.resolution % 16):
            raise UserError(f"resolution must be a multiple of 16 and at least 64, got {self.resolution}")
        if self.crop_scale is not None and not 1.0 <= self.crop_scale <= 4.0:
            raise UserError(f"--crop-scale must be between 1 (the face alone) and 4, got {self.crop_scale}")
        if self.strength < 0 or self.dilation < 0:
            raise UserError(f"strength and dilation must not be negative, got {self.strength} and {self.dilation}")
        if self.max_side < 64:
            raise UserError(f"--max-side must be at least 64 pixels, got {self.max_side}")
        if self.start < 0 or self.reference < 0 or (self.max_frames is not None and self.max_frames < 1):
            raise UserError("--start and --reference must not be negative, and --max-frames must be at least 1")

    @property
    def moves(self) -> bool:
        """Whether the motion is to be changed, replaced or kept."""
        return bool(self.edit.strip()) or self.motion_file is not None or self.save_motion is not None


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
    if list(folder.glob("*autoencoder.safetensors")) and folder != bundled:
        return _only(folder, "autoencoder")
    return base or _only(bundled, "autoencoder")


def _only(folder: Path, what: str) -> Path:
    pattern = f"*{what}.safetensors"
    found = sorted(folder.glob(pattern)) or sorted(folder.glob(f"*/{pattern}"))  # ComfyUI lists files by folder
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
