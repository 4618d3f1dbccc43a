"""The recipe of a bundled model as settings: inputs, samples, autoencoder, stages of training, sampling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..model.checks import build
from ..model.config import AdapterConfig, SamplingConfig
from .autoencoder import AutoencoderConfig
from .data.posed import PosedDataConfig
from .fewstep_config import FewStepConfig
from .tables import read_toml, table_at, tables_at


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Files that a recipe starts from. Paths in the recipe are relative to its folder."""

    data: str  # TOML list of portraits and clips, as for `svdp data pack`
    head: str  # that targets are drawn with: the folder FaceXModel of ICT-FaceKit, or an npz of `heads.bake`
    head_table: str = ""  # MediaPipe's landmarks on that head; empty: ICT-FaceKit's
    head_modes: int = 48  # identity modes of it that are kept
    teacher: str  # TAESD3's encoder, or a whole autoencoder in TAESD form
    teacher_decoder: str = ""  # TAESD3's decoder
    autoencoder: str = ""  # weights that the autoencoder starts from; empty: random, or TAESD3 if it is not trained


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """How many rendered samples are held: clips and photos to train on, and held-out photos."""

    clips: int = 64
    photos: int = 64
    heldout: int = 24


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides how a model is made, but for the machine."""

    name: str
    inputs: Inputs
    adapter: AdapterConfig
    samples: PosedDataConfig
    stages: tuple[FewStepConfig, ...]
    sampling: SamplingConfig
    pool: PoolSettings = PoolSettings()
    autoencoder: AutoencoderConfig | None = None  # None: the one of the inputs as it is
    pairs: str = ""  # list for `svdp evaluate`; empty: not evaluated

    def __post_init__(self) -> None:
        samples, adapter = self.samples, self.adapter
        if not self.stages:
            raise UserError("at least one [[stage]] is needed")
        if (samples.size, samples.crop_scale) != (adapter.resolution, adapter.crop_scale):
            raise UserError("[samples] size and crop_scale must be [adapter] resolution and crop_scale")
        longest = max(stage.frames for stage in self.stages) + adapter.num_history
        if samples.frames < longest:
            raise UserError(f"[samples] frames must be at least {longest}, the longest stage's with history")
        if self.autoencoder is None and not (self.inputs.autoencoder or self.inputs.teacher_decoder):
            raise UserError("without [autoencoder] a trained one is needed: set autoencoder or teacher_decoder")

    @property
    def base(self) -> str:
        """The base that stays as it is; empty if it is trained."""
        return self.stages[-1].base


def load_recipe(path: Path) -> Recipe:
    """Read a TOML file like configs/bundled.toml. Raises `UserError` that names a wrong setting."""
    table: dict[str, Any] = read_toml(path)
    where = str(path)
    stages = [{**stage, "adapter": table_at(table, "adapter", where)} for stage in tables_at(table, "stage", where)]
    for stage in stages:
        if isinstance(stage.get("base"), str) and stage["base"]:
            stage["base"] = _absolute(path, stage["base"])
    given = table_at(table, "inputs", where)
    inputs = {k: _absolute(path, v) if isinstance(v, str) and v else v for k, v in given.items()}
    if table_at(table, "autoencoder", where):
        files = {key: inputs[key] for key in ("teacher", "teacher_decoder") if key in inputs}
        table["autoencoder"] |= {**files, "start": inputs.get("autoencoder", ""), "crops_file": "crops.npy"}
    if isinstance(table.get("pairs"), str) and table["pairs"]:
        table["pairs"] = _absolute(path, table["pairs"])
    table.pop("stage", None)
    return build(Recipe, {"name": path.stem, **table, "inputs": inputs, "stages": stages}, where)


def _absolute(path: Path, name: str) -> str:
    return str((path.parent / name).resolve())
