"""Held-out shards of `svdp evaluate --shards`: clips of latents in, animated clips beside their true frames out."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import typer
from torch import autocast

from ..animation.config import AnimateConfig
from ..animation.pipeline import Model, decode, load_model
from ..errors import NoFaceError, UserError
from ..evaluation.heldout import HeldoutClip, evaluate_clip, pool
from ..model.backends.diffusers_vae import load_autoencoder
from ..model.sampling import SegmentSignals, generate
from ..model.segments import Segment, plan_segments
from ..signals.images import save_image
from ..training.data.shards import describe_shards, read_shard
from .train import EXTRA

if TYPE_CHECKING:
    from ..evaluation.protocol import Identity
    from ..evaluation.report import Run

SHOWN = 6  # frames of a contact sheet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardClip:
    """Where a clip lies: a shard (`training.data.shards`) and the key in it."""

    path: Path
    name: str

    def read(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Its arrays and its description."""
        return next((arrays, about) for key, arrays, about in read_shard(self.path) if key == self.name)


def choose_clips(folder: Path, count: int | None, provider: str | None) -> list[ShardClip]:
    """At most `count` clips, evenly spread over the shards in `folder` (or the shard `folder`); of one provider.

    Raises UserError: no shards there, no clip of that provider (those that there are named), unreadable.
    """
    paths = [folder] if folder.is_file() else sorted(folder.glob("*.tar"))
    if not paths:
        raise UserError(f"no shards (*.tar) in {folder}: name the folder of a split, such as data/mini/heldout")
    found = [(path, about["key"], str(about.get("provider"))) for path in paths for about in describe_shards([path])]
    chosen = [entry for entry in found if provider in (None, entry[2])]
    if not chosen:
        kinds = ", ".join(sorted({kind for _, _, kind in found})) or "none at all"
        raise UserError(f"no clip of provider {provider!r} in {folder}: there are {kinds}")
    numbers = np.linspace(0, len(chosen) - 1, min(count or len(chosen), len(chosen))).round().astype(int)
    return [ShardClip(chosen[n][0], chosen[n][1]) for n in numbers]


def evaluate_shards(
    clips: Sequence[ShardClip], cfg: AnimateConfig, out: Path, identity: Identity, truth: Path | None
) -> tuple[list[Run], dict[str, float]]:
    """The rows of all clips, and the one of all frames together; contact sheets OUT/NAME.sheet.png on the way.

    And the condition-swap gaps (`condition_swap_gaps`).

    truth: another autoencoder to decode source and true frames with; by default the model's own.
    Clips without a face that the detector finds are left out, which is said. Raises UserError if none has one.
    """
    model = load_model(cfg)
    decoder = model
    if truth is not None:
        codec = load_autoencoder(truth, model.device, torch.float32)
        decoder = replace(model, codec=codec, dtype=torch.float32)
    out.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = []
    for number, clip in enumerate(clips, 1):
        typer.echo(f"{clip.name} ({number} of {len(clips)})", err=True)
        try:
            runs += evaluate_clip(_animated(model, decoder, clip, out), identity, model.segments.length)
        except NoFaceError as error:
            log.warning("left out: %s", error)
    if not runs:
        raise UserError(f"the detector finds no face in any of {len(clips)} clips: look at the sheets in {out}")
    return [*runs, pool(runs)], condition_swap_gaps(model, clips)


def condition_swap_gaps(model: Model, clips: Sequence[ShardClip]) -> dict[str, float]:
    """How much worse velocities are predicted with another clip's driver, source or history, inside and outside of the
    driver's regions (`training.monitor.ConditionSwapGaps`); near zero, the model ignores that signal.

    Empty for a single clip, and without the extra 'train'.
    """
    if len(clips) < 2 or any(importlib.util.find_spec(name) is None for name in EXTRA):
        return {}
    from ..training.data.windows import LatentClips
    from ..training.monitor import ConditionSwapGaps

    arrays = [clip.read()[0] for clip in clips]
    latents = LatentClips.from_arrays({name: np.stack([a[name] for a in arrays]) for name in arrays[0]})
    history = min(model.segments.num_history, latents.num_frames - 1)
    frames = min(model.segments.length, latents.num_frames - history)
    with autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32):
        found = ConditionSwapGaps(latents, len(clips), seed=0, chunk=2).measure(model.denoiser, frames, history)
    return {name.removeprefix("gap/"): value for name, value in found.items() if name.startswith("gap/")}


def _animated(model: Model, decoder: Model, clip: ShardClip, out: Path) -> HeldoutClip:
    arrays, about = clip.read()
    latents = {name: torch.from_numpy(arrays[name]).float() for name in ("sources", "target", "driving")}
    masks = torch.from_numpy(arrays["regions"] > 0).float().to(model.device)

    def signals_of(segment: Segment) -> SegmentSignals:
        part = slice(segment.start, segment.stop)
        return SegmentSignals(masks[part], latents["driving"][part].to(model.device))

    results = generate(
        model.denoiser,
        latents["sources"][0].to(model.device),
        signals_of,
        plan_segments(len(masks), model.segments),
        model.sampling,
        device=model.device,
        dtype=model.dtype,
    )
    made = torch.cat([result.latents for result in results])
    result = np.stack(list(decode(model, made)))
    latents["sources"] = latents["sources"][:, : latents["target"].shape[1]]
    source, true, driver = (np.stack(list(decode(decoder, z))) for z in latents.values())
    _save_sheet(out / f"{clip.name}.sheet.png", source[0], [true, driver, result])
    return HeldoutClip(name=clip.name, source=source[0], truth=true, result=result, details={"clip": about})


def _save_sheet(path: Path, source: np.ndarray, rows: Sequence[np.ndarray]) -> None:
    """Source, then some frames: true above the masked driver above the result."""
    shown = np.linspace(0, len(rows[0]) - 1, min(SHOWN, len(rows[0]))).round().astype(int)
    blank = np.full_like(source, 255)
    save_image(
        path,
        np.concatenate(
            [np.concatenate([source if not n else blank, *row[shown]], axis=1) for n, row in enumerate(rows)]
        ),
    )
