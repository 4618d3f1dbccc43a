"""Build training data: `build` writes shards of encoded clips, `inspect` shows what is in them.

A sample is a function of (seed, split, index) and the configuration alone, whatever the number of workers; finished
shards are kept, so a stopped build goes on where it was.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ...errors import UserError
from ...model.autoencoder import ENCODER_PREFIX, TinyAutoencoder
from ...model.backends.diffusers_vae import load_autoencoder
from ...signals.images import save_image
from .identities import load_inputs
from .pictures import PictureClip, pool_masks
from .providers import Providers, open_providers
from .renderers import process_context
from .shards import read_shard, write_shard
from .sources import SPLITS, DataConfig, list_media, load_data_config, with_cache

__all__ = ["DataConfig", "build", "inspect", "load_data_config", "make_clip"]

log = logging.getLogger(__name__)

ENCODER_BATCH = 8


def build(
    config: DataConfig,
    out: Path,
    split: str,
    num_clips: int,
    seed: int,
    workers: int = 1,
    on_clips: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write at least `num_clips` clips (whole shards) to out/split and out/manifest.json; returns the manifest.

    Args:
        on_clips: called with the number of clips on disk each time a shard is finished.

    Raises:
        UserError: bad split, missing media, head model or autoencoder.
    """
    if num_clips < 1 or workers < 1:
        raise UserError(f"num_clips and workers must be at least 1, got {num_clips} and {workers}")
    folder = out / split
    config = with_cache(config, out)
    inputs = load_inputs(config, split)  # fills the cache once, and finds what is missing before workers start
    providers = open_providers(config, inputs, split)
    encoder = load_encoder(Path(config.autoencoder))
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(math.ceil(num_clips / config.clips_per_shard))
    wanted = [n for n in numbers if not shard_path(folder, seed, n).is_file()]
    done = len(numbers) - len(wanted)
    if workers == 1:
        finished = (build_shard(config, providers, encoder, folder, split, seed, number) for number in wanted)
    else:
        finished = _build_parallel(config, folder, split, seed, wanted, workers)
    for _ in finished:
        done += 1
        write_manifest(config, out)
        if on_clips is not None:
            on_clips(done * config.clips_per_shard)
    return write_manifest(config, out)


def _build_parallel(
    config: DataConfig, folder: Path, split: str, seed: int, numbers: list[int], workers: int
) -> Iterator[None]:
    """Build shards in processes of their own, yielding as they finish."""
    with ProcessPoolExecutor(workers, process_context(__name__), _start_worker, (config, split)) as pool:
        for task in as_completed([pool.submit(_work, str(folder), split, seed, number) for number in numbers]):
            yield task.result()


class _Worker:
    """What one worker process keeps between shards."""

    config: DataConfig
    providers: Providers
    encoder: Encoder


def _start_worker(config: DataConfig, split: str) -> None:
    torch.set_num_threads(1)
    _Worker.config, _Worker.providers = config, open_providers(config, load_inputs(config, split), split)
    _Worker.encoder = load_encoder(Path(config.autoencoder))


def _work(folder: str, split: str, seed: int, number: int) -> None:
    build_shard(_Worker.config, _Worker.providers, _Worker.encoder, Path(folder), split, seed, number)


def shard_path(folder: Path, seed: int, number: int) -> Path:
    """Name of a shard."""
    return folder / f"clips-{seed:04d}-{number:05d}.tar"


def build_shard(
    config: DataConfig, providers: Providers, encoder: Encoder, folder: Path, split: str, seed: int, number: int
) -> None:
    """Write one shard."""

    def samples():
        for index in range(number * config.clips_per_shard, (number + 1) * config.clips_per_shard):
            clip = make_clip(providers, split, seed, index)
            yield f"{seed:04d}-{index:07d}", encode_clip(encoder, clip), clip.info

    write_shard(shard_path(folder, seed, number), samples())


def make_clip(providers: Providers, split: str, seed: int, index: int) -> PictureClip:
    """Sample `index` of a build, as pictures."""
    clip = providers.make(np.random.default_rng([seed, SPLITS.index(split), index]))
    clip.info.update(seed=seed, index=index, split=split)
    return clip


class Encoder(Protocol):
    """Pictures (B, 3, H, W) in 0..1 to latents (B, 16, H/8, W/8) as the model sees them."""

    def encode(self, x_B3HW: Tensor) -> Tensor: ...


def load_encoder(path: Path) -> Encoder:
    """An encoder into SD3's latent space, in bfloat16 for speed: a tiny autoencoder's file, TAESD's encoder alone, or
    SD3's own as a folder, file or checkpoint. Raises UserError."""
    if not path.exists():
        raise UserError(f"no autoencoder at {path}: name one in the configuration (autoencoder)")
    if path.is_dir() or _is_sd3s_own(path):
        return load_autoencoder(path, "cpu", torch.bfloat16)
    weights = load_file(path)
    if not any(name.startswith(ENCODER_PREFIX) for name in weights):
        weights = {ENCODER_PREFIX + name: value for name, value in weights.items()}
    own = TinyAutoencoder()
    missing, unknown = own.load_state_dict(weights, strict=False)
    unknown = [name for name in unknown if not name.startswith("vae_")]
    if unknown or any(name.startswith(ENCODER_PREFIX) for name in missing):
        raise UserError(f"{path} is not an encoder in TAESD form with 16 channels: {[*missing, *unknown][:4]}")
    return own.to(torch.bfloat16).to(memory_format=torch.channels_last).train(False)  # type: ignore[call-overload]


def _is_sd3s_own(path: Path) -> bool:
    with safe_open(str(path), "pt") as file:
        return any(name.endswith("encoder.conv_in.weight") for name in file.keys())


@torch.no_grad()
def encode_pictures(encoder: Encoder, pictures: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) uint8 -> (n, 16, H/8, W/8) float16 latents as the model sees them."""

    def encode(batch: np.ndarray) -> Tensor:
        unit = torch.from_numpy(batch).permute(0, 3, 1, 2).to(torch.bfloat16) / 255
        return encoder.encode(unit.contiguous(memory_format=torch.channels_last))

    starts = range(0, len(pictures), ENCODER_BATCH)
    return torch.cat([encode(pictures[i : i + ENCODER_BATCH]) for i in starts]).contiguous().half().numpy()


def encode_clip(encoder: Encoder, clip: PictureClip) -> dict[str, np.ndarray]:
    """The arrays of `training.data.shards`."""
    parts = (clip.sources, clip.target, clip.driving)
    latents = encode_pictures(encoder, np.concatenate(parts))
    ends = np.cumsum([len(part) for part in parts])
    return {
        "sources": latents[: ends[0]], "target": latents[ends[0] : ends[1]],
        "driving": latents[ends[1] :], "regions": pool_masks(clip.masks),
    }  # fmt: skip


def write_manifest(config: DataConfig, out: Path) -> dict[str, Any]:
    """Count what lies in out/train and out/heldout; write and return out/manifest.json."""
    splits: dict[str, Any] = {}
    for split in SPLITS:
        shards = sorted((out / split).glob("*.tar"))
        about = [_shard_summary(path) for path in shards]
        files = {m.name: m for kind in ("portraits", "clips", "pairs") for m in list_media(config, split, kind)}
        splits[split] = {
            "shards": [path.name for path in shards],
            "clips": sum(entry["clips"] for entry in about),
            "providers": dict(sum((Counter(entry["providers"]) for entry in about), Counter())),
            "seeds": sorted({path.name.split("-")[1] for path in shards}),
            "identities": {n: {"origin": m.origin, "licence": m.licence} for n, m in sorted(files.items())},
        }
    manifest = {"settings": _plain_settings(config), "splits": splits}
    part = out / "manifest.part"
    part.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(part, out / "manifest.json")
    return manifest


def _shard_summary(path: Path) -> dict[str, Any]:
    """Clips and providers of a shard, remembered in a small file beside it."""
    memo = path.with_suffix(".json")
    if not memo.is_file():
        providers = Counter(about["provider"] for _, _, about in read_shard(path))
        memo.write_text(json.dumps({"clips": sum(providers.values()), "providers": dict(providers)}), encoding="utf-8")
    return json.loads(memo.read_text(encoding="utf-8"))


def _plain_settings(config: DataConfig) -> dict[str, Any]:
    """The settings without this machine's folders."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("roots", "cache", "media")}
    return settings | {name: Path(settings[name]).name for name in ("head_model", "autoencoder")}


def inspect(out: Path, split: str = "train", count: int = 8, decoder: TinyAutoencoder | None = None) -> Path:
    """Write out/inspect-{split}.png: `count` clips, each sources | every fourth target | the same of the driver.

    Without a `decoder` the first three latent channels are shown. Returns the picture's path; raises UserError when
    the split has no shards.
    """
    shards = sorted((out / split).glob("*.tar"))
    if not shards:
        raise UserError(f"no shards in {out / split}: build them first")
    clips = [(about, arrays) for path in shards[:: max(1, len(shards) // 8)] for _, arrays, about in read_shard(path)]
    chosen = [clips[int(n)] for n in np.linspace(0, len(clips) - 1, min(count, len(clips)))]
    rows = [_sheet_row(arrays, decoder) for _, arrays in chosen]
    save_image(out / f"inspect-{split}.png", np.concatenate(rows))
    for about, _ in chosen:
        log.info("%s: %s driven by %s", about["provider"], "+".join(about["identities"]), about["driver"])
    return out / f"inspect-{split}.png"


@torch.no_grad()
def _sheet_row(arrays: dict[str, np.ndarray], decoder: TinyAutoencoder | None) -> np.ndarray:
    latents = np.concatenate([arrays["sources"], arrays["target"][::4], arrays["driving"][::4]])
    z = torch.from_numpy(latents).float()
    pictures = decoder.float().decode(z) if decoder is not None else (z[:, :3] / 4 + 0.5).clamp(0, 1)
    return np.concatenate([(255 * p.permute(1, 2, 0)).byte().numpy() for p in pictures], axis=1)
