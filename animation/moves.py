"""The motion that is drawn: the driver's or a file's, edited; kept in a file if that is wished."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..heads.controls import parse_edits
from .config import AnimateConfig
from .output import same_file

if TYPE_CHECKING:
    from ..heads.face_motion import FaceMotion  # brings torch: seconds, spent beside other work

log = logging.getLogger(__name__)

MOTION_ENDING = ".json"


def check_moves(cfg: AnimateConfig) -> None:
    """Raise UserError, before any work, for files of motion that would not do."""
    if cfg.motion_file is not None and not cfg.motion_file.is_file():
        raise UserError(f"motion {cfg.motion_file} does not exist: check the path")
    if cfg.save_motion is not None:
        check_motion_output(cfg.save_motion, cfg.overwrite, (cfg.source, cfg.driving, cfg.motion_file))


def check_motion_output(path: Path, overwrite: bool, inputs: tuple[Path | None, ...]) -> None:
    """Raise UserError if a motion must not be written there."""
    if path.suffix.lower() != MOTION_ENDING:
        raise UserError(f"--save-motion {path} must end in {MOTION_ENDING}")
    if any(same_file(path, other) for other in inputs if other is not None):
        raise UserError(f"--save-motion {path} is also an input: choose another name")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UserError(f"--save-motion {path} exists already: choose another name, or add --overwrite")


def changed_motion(driver: FaceMotion, cfg: AnimateConfig, wanted: int) -> FaceMotion:
    """What the driver does, or the file, after --edit; `wanted`: how many frames are shown. Raises UserError."""
    from ..heads.face_motion import edit
    from ..heads.motion_file import load_motion

    moves = driver
    if cfg.motion_file is not None:
        moves = fitted(load_motion(cfg.motion_file, driver.names), len(driver), driver.fps, wanted)
    return edit(moves, parse_edits(cfg.edit))


def fitted(motion: FaceMotion, frames: int, fps: float, wanted: int) -> FaceMotion:
    """A motion at another frame rate, of so many frames: the last one is held."""
    from ..heads.face_motion import fit_length, retime

    timed = motion if motion.fps == fps else replace(retime(motion, motion.fps / fps), fps=fps)
    if len(timed) < wanted:
        log.warning("the motion has %d frames and the video %d: the last one is held", len(timed), wanted)
    return fit_length(timed, frames)


def shown_regions(moves: FaceMotion, regions: tuple[str, ...]) -> tuple[str, ...]:
    """Regions of the driver's pixels that the model may see; the user is told which contradict the motion."""
    kept = tuple(region for region in regions if region in moves.agreeing)
    left_out = [region for region in regions if region not in kept]
    if left_out:
        log.warning("the driver's %s contradict the edited motion: their pixels are left out", ", ".join(left_out))
    return kept
