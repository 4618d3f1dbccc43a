"""A run of `svdp edit`: the motion put together, the portrait's head drawn, a picture or a video written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import numpy as np
from rich.markup import escape

from ..animation.config import MOTIONS
from ..animation.driver import DRAFT_LEAST, DRAFT_MOST, DRAFT_SCALE
from ..animation.moves import check_motion_output
from ..animation.output import ENDINGS, OutputFile, same_file, settling
from ..errors import NoFaceError, UserError
from ..heads.controls import parse_edits
from ..heads.doubts import look_for_doubts, warn
from ..heads.face_motion import FaceMotion, fit_length, loop, mix, retime, reverse, smooth, still
from ..heads.face_motion import edit as edited
from ..heads.motion_file import load_motion, save_motion
from ..heads.pose import PosedPortrait
from ..signals.crops import CropConfig, plan_crop
from ..signals.images import load_image, save_image
from ..signals.paste import Paster
from ..signals.track import detect_face
from ..signals.video import Timing, VideoWriter
from .app import console, print_path
from .interrupt import Interrupted, StopRequest
from .progress import Screen

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
SEAM = 6  # frames over which a loop's end turns into its beginning, or fewer in a short motion


@dataclass(frozen=True, kw_only=True)
class EditConfig:
    """One portrait, files of motion or none, edits, one output."""

    source: Path
    output: Path
    edit: str = ""
    motion_file: Path | None = None
    eyes: Path | None = None
    mouth: Path | None = None
    first: int = 0
    frames: int | None = None
    speed: float = 1.0
    smooth: float = 0.0
    reverse: bool = False
    loop: int = 1
    longest: bool = False
    motion: str = "absolute"
    reference: int = 0
    source_face: str = "largest"
    resolution: int | None = None
    crop_scale: float | None = None
    paste_back: bool = True
    max_side: int = 1920
    save_motion: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        parse_edits(self.edit)
        if self.motion not in MOTIONS:
            raise UserError(f"unknown motion {self.motion!r}: choose among {', '.join(MOTIONS)}")
        if self.resolution is not None and not DRAFT_LEAST <= self.resolution <= DRAFT_MOST:
            raise UserError(f"resolution must be from {DRAFT_LEAST} to {DRAFT_MOST}, got {self.resolution}")
        if self.crop_scale is not None and not 1.0 <= self.crop_scale <= 4.0:
            raise UserError(f"--crop-scale must be between 1 (the face alone) and 4, got {self.crop_scale}")
        if (self.eyes or self.mouth) and self.motion_file is None:
            raise UserError("--eyes and --mouth need --motion-file, the motion of the head")
        if self.is_video and self.motion_file is None and not self.frames:
            raise UserError("a video needs --motion-file, or --frames for a still: or write a picture (.png)")
        if self.save_motion is not None:
            check_motion_output(self.save_motion, self.overwrite, self.inputs)

    @property
    def is_video(self) -> bool:
        """Whether a video is written."""
        return self.output.suffix.lower() in ENDINGS

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that are read."""
        return tuple(p for p in (self.source, self.motion_file, self.eyes, self.mouth) if p is not None)


def run(cfg: EditConfig) -> int:
    """Edit as `cfg` says; returns the exit code. Raises UserError, with nothing under the output's name then."""
    if not cfg.is_video:
        _check_picture(cfg)
        _draw_picture(cfg)
        print_path(cfg.output)
        return 0
    output = OutputFile(cfg.output, overwrite=cfg.overwrite, resume=None, sheet=False, inputs=cfg.inputs)
    try:
        with settling(output), StopRequest() as stop, Screen(console) as screen:
            _draw_video(cfg, output, stop, screen)
    except Interrupted as interrupted:
        console.print(f"[yellow]{interrupted}:[/] {escape(interrupted.kept)}", soft_wrap=True)
        return interrupted.exit_code
    print_path(cfg.output)
    return 0


def gather(cfg: EditConfig, names: tuple[str, ...]) -> FaceMotion:
    """The motion of `cfg`: mixed, cut, timed and edited, in this order."""
    if cfg.motion_file is None:
        moves = still(names, cfg.frames or 1)
    else:
        head, eyes, mouth = (
            None if path is None else load_motion(path, names) for path in (cfg.motion_file, cfg.eyes, cfg.mouth)
        )
        assert head is not None
        moves = mix(head, eyes, mouth, cfg.longest)
    if cfg.first >= len(moves):
        raise UserError(f"--first {cfg.first} is not among the motion's {len(moves)} frames")
    moves = moves[cfg.first :]
    moves = moves if cfg.frames is None else fit_length(moves, cfg.frames)
    moves = smooth(retime(reverse(moves) if cfg.reverse else moves, cfg.speed), cfg.smooth)
    moves = loop(moves, cfg.loop, min(SEAM, len(moves) // 2) if cfg.loop > 1 else 0)
    return edited(moves, parse_edits(cfg.edit))


class _Drawing:
    """The portrait's frames, whole pictures or squares."""

    def __init__(self, cfg: EditConfig) -> None:
        picture = load_image(cfg.source, max_side=cfg.max_side)
        try:
            face = detect_face(picture, select=cfg.source_face)
        except NoFaceError as error:
            raise NoFaceError(f"source {cfg.source}: {error}") from error
        scale = cfg.crop_scale or DRAFT_SCALE
        zoom = plan_crop(face, CropConfig(size=DRAFT_LEAST, scale=scale)).affines[0, 0, 0]
        own = int(np.clip(round(DRAFT_LEAST / float(zoom) / 16) * 16, DRAFT_LEAST, DRAFT_MOST))
        rule = CropConfig(size=cfg.resolution or own, scale=scale)
        self._picture, self._affine = picture, plan_crop(face, rule).affines[0]
        self._head = PosedPortrait(picture, face, rule.size, scale)
        warn(look_for_doubts(picture, face, self._head.subject.place.fit))
        self._cfg = cfg
        self.moves = gather(cfg, self._head.basis.names)
        if cfg.motion == "relative" and cfg.reference >= len(self.moves):
            raise UserError(f"--reference {cfg.reference} is not among the motion's {len(self.moves)} frames")

    def frames(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8."""
        mode = "relative" if self._cfg.motion == "relative" else "absolute"
        paste = Paster(self._picture, self._affine, self._head.rig.size)
        for frame in self._head.perform(self.moves, mode, self._cfg.reference):
            square = frame.picture
            yield paste(square)[0] if self._cfg.paste_back else square

    def keep_motion(self) -> None:
        """Write --save-motion, if it is wished."""
        if self._cfg.save_motion is not None:
            save_motion(self._cfg.save_motion, self.moves)


def _draw_picture(cfg: EditConfig) -> None:
    drawing = _Drawing(cfg)
    drawing.moves = drawing.moves if cfg.motion == "relative" else drawing.moves[:1]
    made = next(drawing.frames())
    cfg.output.parent.mkdir(parents=True, exist_ok=True)
    save_image(cfg.output, made)
    drawing.keep_motion()


def _draw_video(cfg: EditConfig, output: OutputFile, stop: StopRequest, screen: Screen) -> None:
    drawing = _Drawing(cfg)
    count, fps = len(drawing.moves), Fraction(drawing.moves.fps).limit_denominator(1001)
    timing = Timing(
        num_frames=count, fps=fps, constant=True, begin=Fraction(0), ticks=tuple(range(count)), time_base=1 / fps
    )
    stage, frames = screen.stage("drawing", count, "frames"), drawing.frames()
    start = next(frames)
    output.started = True
    with VideoWriter(output.video, start.shape[:2], timing) as writer:
        for frame in chain([start], islice(frames, count - 1)):
            stop.check()
            writer.write(frame)
            stage.advance()
    stage.done()
    drawing.keep_motion()
    output.commit()


def _check_picture(cfg: EditConfig) -> None:
    """Raise UserError for a picture that must not be written."""
    path = cfg.output
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"output {path} must end in one of {', '.join(PICTURES + ENDINGS)}")
    if any(same_file(path, other) for other in cfg.inputs):
        raise UserError(f"output {path} is also an input: choose another name with -o")
    if path.is_dir():
        raise UserError(f"output {path} is a folder: give a file name, such as {path / 'out.png'}")
    if path.exists() and not cfg.overwrite:
        raise UserError(f"output {path} exists already: choose another name, or add --overwrite")
