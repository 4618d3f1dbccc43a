"""The mesh baseline beside the results of `svdp evaluate --head-model`: OUT/NAME.mesh.mp4."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..animation.config import AnimateConfig
from ..heads.bare_head import perform
from ..heads.scene import Rig, make_portrait
from ..signals.crops import CropConfig
from ..signals.images import load_image
from ..signals.track import detect_face, track_faces
from ..signals.video import VideoReader, VideoWriter
from ..training.data.identities import open_rig
from ..training.data.sources import DataConfig

if TYPE_CHECKING:
    from ..evaluation.manifest import Pair

NAME = "mesh baseline"


def add_mesh_baselines(
    pairs: list[Pair], configs: dict[str, AnimateConfig], out: Path, head_model: Path, rule: CropConfig
) -> list[Pair]:
    """The pairs with one more video to compare: the source's textured head with the driver's motion.

    Raises UserError.
    """
    settings = DataConfig(
        autoencoder="", media=(), roots={}, head_model=str(head_model), size=rule.size, crop_scale=rule.scale
    )
    rig = open_rig(settings)
    found = []
    for number, pair in enumerate(pairs, 1):
        typer.echo(f"head of {pair.name} ({number} of {len(pairs)})", err=True)
        path = _write_mesh_baseline(rig, configs[pair.name], out / f"{pair.name}.mesh.mp4")
        found.append(replace(pair, compare={**pair.compare, NAME: path}))
    return found


def _write_mesh_baseline(rig: Rig, cfg: AnimateConfig, path: Path) -> Path:
    source = load_image(cfg.source, max_side=cfg.max_side)
    portrait = make_portrait(rig, cfg.source.name, source, detect_face(source, select=cfg.source_face))
    reader = VideoReader(cfg.driving, start=cfg.start, max_frames=cfg.max_frames)
    track = track_faces(reader, float(reader.info.fps), select=cfg.select_face)
    with VideoWriter(path, (rig.size, rig.size), reader.timing) as writer:
        for square in perform(rig, portrait, track):
            writer.write(square)
    return path
