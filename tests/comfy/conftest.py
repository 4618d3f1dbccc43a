"""Real ComfyUI in this process, on the CPU; tests of this folder skip, saying so, where it is not found."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parent


def comfy_folder() -> Path:
    """$COMFYUI_PATH, else ~/comfy/ComfyUI."""
    return Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")


def why_not() -> str | None:
    """Why ComfyUI cannot be used here; None if it can."""
    folder = comfy_folder()
    if not (folder / "comfy" / "samplers.py").is_file():
        return f"no ComfyUI at {folder} (set COMFYUI_PATH)"
    wanted = (folder / "requirements.txt").read_text(encoding="utf-8")
    own = [m for m in ("comfy-aimdo", "comfy-kitchen", "torchsde", "av") if f"\n{m}" in f"\n{wanted}"]
    missing = [m for m in own if importlib.util.find_spec(m.replace("-", "_")) is None]
    return f"ComfyUI's requirements are not installed here: {', '.join(missing)}" if missing else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.comfy)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def comfy_on_path() -> Iterator[None]:
    """ComfyUI importable, on the CPU, deaf to pytest's own arguments."""
    if why_not():
        yield
        return
    folder = str(comfy_folder().resolve())
    sys.path.append(folder)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    yield
    sys.path.remove(folder)


CHANNELS, SIDE, FRAMES, HISTORY = 16, 8, 4, 2  # latents of 8 x 8: 4 x 4 tokens
SEED = 11


class Noise_RandomNoise:  # named like ComfyUI's own: what it is called decides how noise is drawn
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        import comfy.sample

        return comfy.sample.prepare_noise(latent["samples"], self.seed, latent.get("batch_index"))


@pytest.fixture(scope="session")
def bundled_file(assets_dir: Path) -> Callable[[str], Path]:
    """A bundled weight file by its name, wherever under assets it lies."""
    return lambda name: next(assets_dir.rglob(name))


@pytest.fixture
def random_noise() -> Noise_RandomNoise:
    return Noise_RandomNoise(SEED)


def tiny_architecture() -> Any:
    """Width 64 times depth, as ComfyUI takes an SD3 base to be; dual attention in its first block."""
    from svdp.model.config import BaseArchitecture

    return BaseArchitecture(width=128, depth=2, heads=2, dual_blocks=(0,), table_size=16, context_dim=24, pooled_dim=16)


def write_base(path: Path) -> Path:
    """A base with random weights."""
    from svdp.model.backends.diffusers import build_transformer, save_transformer

    torch.manual_seed(0)
    base = build_transformer(tiny_architecture())
    table = base.pos_embed.pos_embed.clone()
    for p in base.parameters():
        torch.nn.init.normal_(p, std=0.1)
    base.pos_embed.pos_embed.copy_(table)
    save_transformer(path, base, {}, torch.float32)
    return path


def write_adapter(path: Path, lora: bool = False, trained: bool = True, **settings: Any) -> Path:
    """An adapter of which every part is active."""
    from svdp.model.adapter import Adapter, AdapterFile, save_adapter
    from svdp.model.config import AdapterConfig

    config = AdapterConfig(
        base=tiny_architecture(), segment_length=FRAMES, num_history=HISTORY, token_multiple=2, **settings
    )
    torch.manual_seed(1)
    adapter = Adapter(config)
    if trained:
        for p in adapter.parameters():
            torch.nn.init.normal_(p, std=0.2)
    save_adapter(path, AdapterFile(adapter, lora_deltas() if lora else {}), torch.float32)
    return path


def lora_deltas() -> dict[str, Tensor]:
    """Deltas on one layer of every kind that training adapts."""
    width, g = 128, torch.Generator().manual_seed(2)
    layers = {"attn.to_q": 1, "attn.to_v": 1, "attn.to_out.0": 1, "attn.add_k_proj": 1, "attn2.to_k": 1}
    layers |= {"attn2.to_out.0": 1, "attn.to_add_out": 1, "ff.net.0.proj": 4, "ff_context.net.2": 1}
    result = {}
    for layer, grown in layers.items():
        name = f"transformer_blocks.0.{layer}"
        inside = 4 * width if layer.endswith("net.2") else width
        result[f"{name}.A.weight"] = torch.randn(3, inside, generator=g) * 0.1
        result[f"{name}.B.weight"] = torch.randn(grown * width, 3, generator=g) * 0.3
    return result


@pytest.fixture(scope="session")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "base.safetensors")


@pytest.fixture
def adapter_path(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter.safetensors")


def load_model(path: Path) -> Any:
    """MODEL by ComfyUI's own loader, computing in float32."""
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})


@pytest.fixture
def model(base_path: Path) -> Any:
    return load_model(base_path)


def make_signals(num_frames: int, side: int = SIDE, seed: int = 3, posed: bool = False) -> Any:
    """Raw latents, pixels and region masks: eyes, nose and mouth in places that move; on request a posed source."""
    from svdp.model.backends.comfy_signals import VideoSignals

    g = torch.Generator().manual_seed(seed)
    masks = torch.zeros(num_frames, 3, side, side)
    for f in range(num_frames):
        for region in range(3):
            top, left = (2 * region) % (side - 2), (f + region) % (side - 2)
            masks[f, region, top : top + 2, left : left + 2] = 1
    return VideoSignals(
        source=torch.randn(1, CHANNELS, side, side, generator=g),
        driving=torch.randn(num_frames, CHANNELS, side, side, generator=g),
        masks=masks,
        driving_pixels=torch.randint(256, (num_frames, 4, 8 * side, 8 * side), generator=g, dtype=torch.uint8),
        **(posed_source(num_frames, side, g) if posed else {}),
    )


def posed_source(num_frames: int, side: int, g: torch.Generator) -> dict[str, Tensor]:
    """Posed pixels of which the left half is known, and latents."""
    pixels = torch.randint(256, (num_frames, 4, 8 * side, 8 * side), generator=g, dtype=torch.uint8)
    pixels[:, 3] = 0
    pixels[:, 3, :, : 4 * side] = 255
    return {"posed_pixels": pixels, "posed": torch.randn(num_frames, CHANNELS, side, side, generator=g)}


@pytest.fixture
def signals() -> Any:
    return make_signals(FRAMES)


@pytest.fixture
def euler() -> Any:
    import comfy.samplers

    return comfy.samplers.sampler_object("euler")


@pytest.fixture
def sigmas() -> Tensor:
    from svdp.model.flow import sigma_schedule

    return sigma_schedule(3, 3.0)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(path))
    return path


@pytest.fixture
def animate(signals, euler, sigmas):
    """Result of our guider on a MODEL."""
    from svdp.model.backends.comfy_guider import SVDPGuider

    from .backend import THREE, sample

    def run(model: Any, fusion: Any = None, conditioning: Any = None) -> Tensor:
        return sample(SVDPGuider(model, signals, fusion or THREE, conditioning), euler, sigmas)

    return run


@pytest.fixture
def plain(euler, sigmas):
    """Result of ComfyUI's own guider on a MODEL."""
    import comfy.samplers

    from .backend import sample, text

    def run(model: Any, cfg: float = 1.0) -> Tensor:
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(text(), text(6))
        guider.set_cfg(cfg)
        return sample(guider, euler, sigmas)

    return run
