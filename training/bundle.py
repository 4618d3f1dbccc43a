"""A trained model as users get it: base, adapter and autoencoder under one name, with the sampling that suits it."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..errors import UserError
from ..model.adapter import load_adapter, save_adapter
from ..model.config import SamplingConfig
from .setup import ADAPTER_FILE, BASE_FILE


def bundle(run: Path, autoencoder: Path, out: Path, name: str, sampling: SamplingConfig) -> list[Path]:
    """Write `<name>_base`, `<name>_adapter` and `<name>_autoencoder.safetensors` into `out`; returns their paths.

    `run` is a folder that training wrote weights to (`weights` or `best`). `sampling` (its seed aside) goes into the
    adapter file as `info["sampling"]`: what the command line and the nodes use unless they are told otherwise.
    Raises `UserError` if a file is missing.
    """
    sources = {"base": run / BASE_FILE, "adapter": run / ADAPTER_FILE, "autoencoder": autoencoder}
    missing = [str(p) for p in sources.values() if not p.is_file()]
    if missing:
        raise UserError(f"nothing to bundle: {', '.join(missing)} not found; train first, or check the paths")
    out.mkdir(parents=True, exist_ok=True)
    targets = {part: out / f"{name}_{part}.safetensors" for part in sources}
    shutil.copyfile(sources["base"], targets["base"])
    shutil.copyfile(sources["autoencoder"], targets["autoencoder"])
    file = load_adapter(sources["adapter"])
    file.info["sampling"] = _sampling_json(sampling)
    save_adapter(targets["adapter"], file, _dtype_of(sources["adapter"]))
    return list(targets.values())


def _sampling_json(sampling: SamplingConfig) -> dict[str, Any]:
    values = asdict(sampling)
    del values["seed"]
    return values


def _dtype_of(path: Path) -> torch.dtype:
    with safe_open(str(path), "pt") as file:
        return file.get_tensor("roles").dtype
