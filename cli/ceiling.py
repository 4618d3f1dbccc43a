"""`svdp evaluate --ceiling`: what re-detection says of renders whose motion is known, a row a pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from ..animation.config import AnimateConfig
from ..animation.driver import DRAFT_SCALE
from ..errors import UserError
from ..signals.crops import CropConfig, crop_track, plan_crop
from ..signals.images import load_image
from ..signals.track import detect_face, track_faces
from ..signals.video import VideoReader

if TYPE_CHECKING:
    from ..evaluation.manifest import Pair
    from ..evaluation.report import Run

SIZE = 384  # pixels of the pictures' side


def measure_ceilings(pairs: Sequence[Pair], configs: dict[str, AnimateConfig]) -> list[Run]:
    """The rows of all pairs. Raises UserError, MediaError or NoFaceError that name the pair."""
    from ..evaluation.ceiling import measure_ceiling
    from ..heads.pose import PosedPortrait

    runs: list[Run] = []
    for number, pair in enumerate(pairs, 1):
        typer.echo(f"ceiling of {pair.name} ({number} of {len(pairs)})", err=True)
        cfg = configs[pair.name]
        rule = CropConfig(size=cfg.resolution or SIZE, scale=cfg.crop_scale or DRAFT_SCALE)
        try:
            source = load_image(cfg.source, max_side=cfg.max_side)
            face = detect_face(source, select=cfg.source_face)
            portrait = PosedPortrait(source, face, rule.size, rule.scale)
            reader = VideoReader(cfg.driving, start=cfg.start, max_frames=cfg.max_frames)
            fps = float(reader.info.fps)
            track = track_faces(reader, fps, select=cfg.select_face)
            runs.append(measure_ceiling(pair.name, portrait, crop_track(track, plan_crop(track, rule)), fps))
        except UserError as error:
            raise type(error)(f"{pair.name}: {error}") from error
    return runs
