"""What the nodes of `motion` do."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..heads.controls import PARTS, Edit, parse_edits
from ..heads.face_motion import (
    REGIONS,
    FaceMotion,
    blend,
    edit,
    fit_length,
    fit_motion,
    freeze,
    joined,
    loop,
    mix,
    retime,
    reverse,
    smooth,
    still,
)
from ..heads.landmarks import load_bundled
from ..heads.motion_file import ENDING, load_motion, save_motion
from ..heads.pose import open_rig
from ..signals.crops import CropConfig
from ..signals.track import FaceTrack
from .posing import find_driver

__all__ = ["REGIONS", "described", "edited", "loaded", "mixed", "of_lines", "of_track", "saved", "timed", "told"]


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Of the bundled head's expressions."""
    return load_bundled()[0].names


def of_track(track: FaceTrack, fps: float) -> FaceMotion:
    """What a driver does whose track is in the pixels of its square. Raises UserError if it is not."""
    driver = find_driver(track, None, None)
    side = driver.image_size[0]
    basis = open_rig(256, CropConfig.scale)[1]
    return fit_motion(basis, driver.landmarks, driver.blendshapes, side, fps)


def described(motion: FaceMotion) -> str:
    """A few lines for a human."""
    lines = [f"{len(motion)} frames, {motion.fps:g} frames/s"]
    for n, name in enumerate(("yaw", "pitch", "roll")):
        lines.append(f"{name} {motion.angles[:, n].min():.0f} to {motion.angles[:, n].max():.0f} degrees")
    lids, lips = motion.lids.mean(1), motion.lips[:, 0]
    lines.append(f"eyes open {lids.min():.2f} to {lids.max():.2f} of rest")
    lines.append(f"mouth open {lips.min():.2f} to {lips.max():.2f} of its width")
    return "\n".join(lines)


def edited(
    motion: FaceMotion | None,
    offsets: dict[str, float],
    strengths: dict[str, float],
    frozen: str,
    frame: int,
    frames: int,
) -> FaceMotion:
    """The motion, or so many frames of any portrait, after the sliders. Raises UserError for an unknown frame."""
    made = still(names(), frames) if motion is None else motion
    if frozen:
        made = freeze(made, PARTS[frozen], frame)
    changes = [Edit(name, strength=value) for part, value in strengths.items() for name in PARTS[part] if value != 1]
    changes += [Edit(name, offset=value) for name, value in offsets.items() if value]
    return edit(made, changes)


def told(motion: FaceMotion) -> str:
    """What is edited, and where the driver's pixels contradict it."""
    lines = [f"{len(motion)} frames; edited: {', '.join(motion.edited) or 'nothing'}"]
    lost = [region for region in motion.regions if region not in motion.agreeing]
    if lost:
        lines.append(f"the driver's {', '.join(lost)} contradict the edits: switch them off at Region Masks")
    return "\n".join(lines)


def of_lines(lines: str, between: int, fps: float) -> FaceMotion:
    """A frame for each line of edits, and frames between them. Raises UserError naming the line."""
    made = []
    for number, line in enumerate(lines.rstrip("\n").split("\n"), 1):
        try:
            made.append(edit(still(names(), 1, fps), parse_edits(line)))
        except UserError as error:
            raise UserError(f"line {number}: {error}") from error
    motion = joined(made)
    return motion if between == 0 or len(motion) == 1 else _spread(motion, between)


def _spread(motion: FaceMotion, between: int) -> FaceMotion:
    """`between` frames from each frame to the next, slow at both ends."""
    at = np.arange((len(motion) - 1) * between + 1) / between
    low = np.minimum(at.astype(int), len(motion) - 2)
    share = at - low
    return blend(motion[low], motion[low + 1], share * share * (3 - 2 * share))


def mixed(
    head: FaceMotion,
    eyes: FaceMotion | None,
    mouth: FaceMotion | None,
    other: FaceMotion | None,
    share: float,
    longest: bool,
) -> FaceMotion:
    """Several motions on one time line, another blended in."""
    made = mix(head, eyes, mouth, longest)
    if other is None:
        return made
    count = (max if longest else min)(len(made), len(other))
    return blend(fit_length(made, count), fit_length(other, count), share)


def timed(
    motion: FaceMotion,
    first: int,
    frames: int,
    backwards: bool,
    speed: float,
    smoothing: float,
    loops: int,
    seam: int,
) -> FaceMotion:
    """Cut, reversed, slowed, smoothed and looped, in this order. Raises UserError for frames that are not there."""
    if first >= len(motion):
        raise UserError(f"first frame {first} is not among the motion's {len(motion)}: choose a smaller one")
    cut = motion[first : first + frames] if frames else motion[first:]
    made = smooth(retime(reverse(cut) if backwards else cut, speed), smoothing)
    return loop(made, loops, min(seam, len(made) // 2) if loops > 1 else 0)


def saved(motion: FaceMotion, name: str, folder: str) -> str:
    """Write NAME.motion.json into the folder, with a number if that is there; the file's name."""
    stem, number = name.removesuffix(ENDING), 0
    while (path := Path(folder) / _numbered(stem, number)).exists():
        number += 1
    save_motion(path, motion)
    return path.name


def _numbered(stem: str, number: int) -> str:
    return f"{stem}{ENDING}" if not number else f"{stem}_{number}{ENDING}"


def loaded(path: str) -> FaceMotion:
    """Read a file of motion. Raises UserError."""
    return load_motion(Path(path), names())
