"""Weights: adapter, base, autoencoder and head, damaged as files and as what they say."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import svdp
import torch
from hostile.case import Generator, damaged, mutated, odd, written
from safetensors.torch import save_file
from svdp.heads.model import load_head_model
from svdp.model.adapter import Adapter, AdapterFile, save_adapter
from svdp.model.autoencoder import TinyAutoencoder
from svdp.model.backends.diffusers import build_transformer, save_transformer
from svdp.model.config import AdapterConfig, BaseArchitecture

TYPES = ("F64", "F32", "F16", "BF16", "I8", "I64", "U8", "BOOL", "F8_E4M3", "F4", "X", "")
SETTINGS = ("svdp.config", "svdp.info")  # texts in JSON in an adapter's header


@cache
def sound() -> Path:
    """A folder with a whole model of random weights: 64 pixels, one block. It lasts as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="svdp-fuzz-"))
    torch.manual_seed(0)
    base = BaseArchitecture(width=64, depth=1, heads=1, table_size=24, context_dim=16, pooled_dim=16)
    config = AdapterConfig(base=base, resolution=64, segment_length=8, num_history=2, video_head_dim=32)
    transformer = build_transformer(base)
    save_transformer(folder / "base.safetensors", transformer, {}, torch.float32)
    transformer.save_pretrained(folder / "diffusers" / "transformer")
    info = {"sampling": {"steps": 1, "fusion": {"source": 1.0, "driving": 1.0}}}
    low = {"transformer_blocks.0.attn.to_q.A.weight": torch.randn(2, 64), "transformer_blocks.0.attn.to_q.B.weight": torch.randn(64, 2)}  # fmt: skip # noqa: E501
    save_adapter(folder / "adapter.safetensors", AdapterFile(Adapter(config), low, info))
    TinyAutoencoder().save(folder / "autoencoder.safetensors")
    return folder


def make_file(part: str) -> Any:
    """The maker of a folder with a model one of whose files is damaged."""

    def make(rng: np.random.Generator, folder: Path) -> Path:
        model = Path(shutil.copytree(sound(), folder / "model", ignore=shutil.ignore_patterns("diffusers")))
        path = model / f"{part}.safetensors"
        written(path, altered(rng, path.read_bytes()))
        return model

    return make


def make_folder(rng: np.random.Generator, folder: Path) -> Path:
    """A model whose base is a diffusers folder with damaged settings or weights, or with a file that is missing."""
    model = Path(shutil.copytree(sound(), folder / "model"))
    (model / "base.safetensors").unlink()
    inner = model / "diffusers" / "transformer"
    weights, settings = inner / "diffusion_pytorch_model.safetensors", inner / "config.json"
    kind = int(rng.integers(5))
    if kind == 0:
        written(weights, altered(rng, weights.read_bytes()))
    elif kind == 1:
        written(settings, damaged(rng, settings.read_bytes()))
    elif kind == 2:
        [weights, settings][int(rng.integers(2))].unlink()
    elif kind == 3:
        index = {"weight_map": {"a": str(odd(rng)), "b": "../../base.safetensors"}, "metadata": odd(rng)}
        weights.unlink()
        written(inner / "diffusion_pytorch_model.safetensors.index.json", _json(mutated(rng, index)))
    else:
        written(settings, _json(mutated(rng, json.loads(settings.read_text()))))
    return model


def make_vae(rng: np.random.Generator, folder: Path) -> Path:
    """A model whose autoencoder is a small one of diffusers, with damaged settings or weights."""
    model = Path(shutil.copytree(sound(), folder / "model", ignore=shutil.ignore_patterns("diffusers")))
    shutil.copytree(_vae(), model / "vae")
    settings, weights = model / "vae" / "config.json", model / "vae" / "diffusion_pytorch_model.safetensors"
    if rng.random() < 0.6:
        written(settings, _json(mutated(rng, json.loads(settings.read_text()))))
    else:
        written(weights, altered(rng, weights.read_bytes()))
    return model


def make_head(rng: np.random.Generator, folder: Path) -> Path:
    """A head with damaged bytes, or with arrays that are missing, misshapen or of another type."""
    path = folder / "head.npz"
    source = Path(svdp.__file__).parent / "assets" / "head" / "makehuman.npz"
    if rng.random() < 0.4:
        return written(path, damaged(rng, source.read_bytes()))
    with np.load(source) as file:
        arrays = dict(file)
    name = str(rng.choice(list(arrays)))
    kind, array = int(rng.integers(5)), arrays[name]
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[name] = array[: array.shape[0] // 2] if array.ndim else np.zeros(3)
    elif kind == 2:
        arrays[name] = array.astype(str)
    elif kind == 3:
        arrays[name] = np.full(array.shape, [np.nan, 1e30, -1][int(rng.integers(3))])
    else:
        arrays[name] = array[..., None]
    with path.open("wb") as stream:
        np.savez(stream, **arrays)
    return path


def altered(rng: np.random.Generator, data: bytes) -> bytes:
    """A safetensors file with damaged bytes, another header, or other tensors."""
    kind = int(rng.integers(4))
    if kind == 0:
        return damaged(rng, data)
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if kind == 1:
        return _with_settings(rng, header, body)
    if kind == 2:
        return _packed(_with_entry(rng, header), body)
    return _with_tensors(rng, header, body)


def _with_settings(rng: np.random.Generator, header: dict[str, Any], body: bytes) -> bytes:
    """The texts of the header changed: the settings in JSON by their values, too."""
    texts = header["__metadata__"] = header.get("__metadata__") or {"format": "pt"}
    name = str(rng.choice(list(texts)))
    own = [key for key in SETTINGS if key in texts]
    if own and rng.random() < 0.8:
        name = str(rng.choice(own))
        texts[name] = _json(mutated(rng, json.loads(texts[name]))).decode()
    elif rng.random() < 0.5:
        del texts[name]
    else:
        texts[name] = str(odd(rng))
    return _packed(header, body)


def _with_entry(rng: np.random.Generator, header: dict[str, Any]) -> dict[str, Any]:
    """One tensor's entry with another type, shape, place or name."""
    name = str(rng.choice([key for key in header if key != "__metadata__"]))
    kind = int(rng.integers(5))
    if kind == 0:
        header[name]["dtype"] = str(rng.choice(TYPES))
    elif kind == 1:
        header[name]["shape"] = odd(rng)
    elif kind == 2:
        header[name]["data_offsets"] = [0, 2**62] if rng.random() < 0.5 else odd(rng)
    elif kind == 3:
        header[name] = odd(rng)
    else:
        header[f"{name}{odd(rng)}"] = header.pop(name)
    return header


def _with_tensors(rng: np.random.Generator, header: dict[str, Any], body: bytes) -> bytes:
    """A valid file in which tensors are missing, misshapen, of another type, not finite, or additional."""
    from safetensors.torch import load

    tensors = load(_packed(header, body))
    for name in rng.choice(list(tensors), int(rng.integers(1, 4)), replace=False):
        name, tensor, kind = str(name), tensors[str(name)], int(rng.integers(7))
        if kind == 0:
            del tensors[name]
        elif kind == 1:
            tensors[name] = tensor.reshape(-1)[: max(0, tensor.numel() // 2)].contiguous()
        elif kind == 2:
            tensors[name] = tensor.to([torch.int8, torch.float64, torch.int64][int(rng.integers(3))])
        elif kind == 3:
            tensors[name] = torch.full_like(tensor.float(), [np.nan, np.inf, 1e30][int(rng.integers(3))])
        elif kind == 4:
            tensors[name + "x"] = tensor.clone()
        elif kind == 5:
            tensors[name] = torch.zeros(())
        else:
            tensors[name] = tensor[None].contiguous()
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        save_file(tensors, file.name, metadata=header.get("__metadata__"))
        return Path(file.name).read_bytes()


def read_model(model: Path) -> None:
    """As `svdp animate --weights` does; what can be loaded must also animate."""
    folder = model / "diffusers"
    vae = model / "vae"
    loaded = svdp.load_model(
        model, base=folder if folder.is_dir() else None, autoencoder=vae if vae.is_dir() else None, device="cpu"
    )
    examples = Path(svdp.__file__).parent / "assets" / "examples"
    config = loaded.denoiser.adapter.config
    if config.segment_length <= 64 and config.resolution <= 256:  # larger ones are slow, and no fault
        svdp.animate(
            examples / "source.jpg", examples / "driving.mp4", model=loaded, max_frames=1, steps=1, contact_sheet=False
        )


@cache
def _vae() -> Path:
    from diffusers import AutoencoderKL

    folder = Path(tempfile.mkdtemp(prefix="svdp-fuzz-")) / "vae"
    blocks = 4
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8,) * blocks, layers_per_block=1, latent_channels=16, norm_num_groups=4,
        scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _packed(header: dict[str, Any], body: bytes) -> bytes:
    text = _json(header)
    return len(text).to_bytes(8, "little") + text + body


def _json(table: Any) -> bytes:
    return json.dumps(table).encode("utf-8", "surrogatepass")


GENERATORS = [
    Generator("adapter", make_file("adapter"), read_model),
    Generator("base", make_file("base"), read_model),
    Generator("base folder", make_folder, read_model),
    Generator("autoencoder", make_file("autoencoder"), read_model),
    Generator("diffusers VAE", make_vae, read_model),
    Generator("head", make_head, load_head_model),
]
