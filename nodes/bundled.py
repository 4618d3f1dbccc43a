"""The bundled small model, loaded once, in the precision in which this machine computes fastest."""

# pyright: reportMissingImports=false
# (ComfyUI is a program, not a package that could be installed)
from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import comfy.model_management
import comfy.sd

from ..model.backends.comfy import LoadedAdapter, load_adapter
from ..model.backends.comfy_vae import load_tiny_vae, own_dtype
from .folders import KEY, bundled


@dataclass(frozen=True)
class Model:
    """What animates: a bare MODEL, an adapter for it, and a VAE."""

    model: Any
    adapter: LoadedAdapter
    vae: Any


@cache
def bundled_model() -> Model:
    """The bundled base, adapter and autoencoder."""
    dtype = own_dtype(comfy.model_management.get_torch_device())
    options = {} if dtype is None else {"dtype": dtype}
    base = comfy.sd.load_diffusion_model(str(bundled("diffusion_models")), model_options=options)
    if dtype is not None:
        base.set_model_compute_dtype(dtype)  # ComfyUI holds that no CPU computes with it
    return Model(base, bundled_adapter(), load_tiny_vae(bundled("vae")))


@cache
def bundled_adapter() -> LoadedAdapter:
    """The bundled adapter."""
    own = bundled(KEY)
    return load_adapter(str(own), own.name)
