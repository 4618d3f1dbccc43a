"""A trained model as users get it: base, adapter and autoencoder under one name, with the sampling that suits it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..errors import UserError
from ..model.adapter import check_base, load_adapter, save_adapter
from ..model.autoencoder import TinyAutoencoder
from ..model.backends.diffusers import architecture_from_config, load_transformer
from ..model.checks import shortened
from ..model.config import SamplingConfig
from .setup import ADAPTER_FILE, BASE_FILE


def bundle(
    run: Path,
    autoencoder: Path,
    out: Path,
    name: str,
    sampling: SamplingConfig,
    *,
    overwrite: bool = False,
    with_base: bool = True,
) -> list[Path]:
    """Write `<name>_base`, `<name>_adapter` and `<name>_autoencoder.safetensors` into `out`; returns their paths.

    `run` is a folder that training wrote weights to (`weights` or `best`). `sampling` (its seed aside) goes into the
    adapter file as `info["sampling"]`: what the command line and the nodes use unless they are told otherwise. All
    are read and checked first, and get their names when all are written. A base that was not trained stays where it is:
    `with_base` is off.
    Raises `UserError` if a file is missing or not what it should be, if base and adapter do not belong together, if
    `name` is no plain file name, or if a file is there already and `overwrite` is off.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UserError(f"name {shortened(name)} must be made of letters, digits, '-', '_' and '.'")
    sources = {"adapter": run / ADAPTER_FILE, "autoencoder": autoencoder}
    if with_base:
        sources = {"base": run / BASE_FILE, **sources}
    missing = [str(p) for p in sources.values() if not p.is_file()]
    if missing:
        raise UserError(f"nothing to bundle: {', '.join(missing)} not found; train first, or check the paths")
    targets = {part: out / f"{name}_{part}.safetensors" for part in sources}
    _check_targets(sources.values(), targets.values(), overwrite)
    file = load_adapter(sources["adapter"])
    if with_base:
        check_base(file.adapter.config, architecture_from_config(load_transformer(sources["base"]).config))
    TinyAutoencoder.load(autoencoder)
    file.info["sampling"] = _sampling_json(sampling)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".bundle-") as folder:
        parts = {part: Path(folder) / target.name for part, target in targets.items()}
        for part in parts.keys() - {"adapter"}:
            shutil.copyfile(sources[part], parts[part])
        save_adapter(parts["adapter"], file, _dtype_of(sources["adapter"]))
        mode = parts["autoencoder"].stat().st_mode  # that of any file made here
        for part, target in targets.items():
            parts[part].chmod(mode)
            os.replace(parts[part], target)
    return list(targets.values())


def _check_targets(sources: Iterable[Path], targets: Iterable[Path], overwrite: bool) -> None:
    inputs = {source.resolve() for source in sources}
    for target in targets:
        if target.resolve() in inputs:
            raise UserError(f"{target} is one of the files to bundle: choose another folder or name")
        if target.is_dir():
            raise UserError(f"{target} is a folder: choose another name")
        if target.exists() and not overwrite:
            raise UserError(f"{target} exists already: choose another folder or name, or add --overwrite")


def _sampling_json(sampling: SamplingConfig) -> dict[str, Any]:
    values = asdict(sampling)
    del values["seed"]
    return values


def _dtype_of(path: Path) -> torch.dtype:
    with safe_open(str(path), "pt") as file:
        return file.get_tensor("roles").dtype
