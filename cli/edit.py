"""`svdp edit`: a portrait moved by sliders or by files of motion, without a driving video; a picture or a video out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..heads.controls import CONTROLS, PARTS
from . import options as o

_PANEL = "Motion"
Output = Annotated[Path, typer.Option("--output", "-o", help="Picture (.png, .jpg) or video (.mp4) to write.")]
Edits = Annotated[str, typer.Option("--edit", "-e", help="Offsets, strengths, frozen parts: see below.")]
MotionFile = Annotated[Path | None, typer.Option(help="Motion, as --save-motion writes it; none: a still.")]
EyesFile = Annotated[Path | None, typer.Option(help="Eyes and brows of this motion.", rich_help_panel=_PANEL)]
MouthFile = Annotated[Path | None, typer.Option(help="Mouth of this motion.", rich_help_panel=_PANEL)]
First = Annotated[int, typer.Option(help="First frame, from 0.", min=0, rich_help_panel=_PANEL)]
Frames = Annotated[int | None, typer.Option(help="So many frames.", min=1, rich_help_panel=_PANEL)]
Speed = Annotated[float, typer.Option(help="0.5 is half as fast.", min=0.05, max=20, rich_help_panel=_PANEL)]
Smooth = Annotated[float, typer.Option(help="Calmer: so many frames wide.", min=0, max=100, rich_help_panel=_PANEL)]
Backwards = Annotated[bool, typer.Option("--reverse", help="The last frame first.", rich_help_panel=_PANEL)]
Loop = Annotated[int, typer.Option(help="So often, without a jump.", min=1, max=1000, rich_help_panel=_PANEL)]
Longest = Annotated[bool, typer.Option("--longest", help="As long as the longest file.", rich_help_panel=_PANEL)]


def _controls() -> str:
    """The epilogue of the help page: controls and parts."""
    lines = [f"{c.name} (-{c.limit:g} to {c.limit:g} {c.unit}): {c.effect}." for c in CONTROLS if c.limit]
    parts = ", ".join(name for name in PARTS)
    head = "smile=0.3 adds to a control, yaw*0.5 makes its motion half as strong, head@0 holds it as in frame 0."
    return "\n\n".join([head, *lines, f"Names for several controls, with * and @: {parts}."])


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_controls())(edit)


def edit(
    source: o.Source,
    output: Output,
    edit: Edits = "",
    motion_file: MotionFile = None,
    eyes: EyesFile = None,
    mouth: MouthFile = None,
    first: First = 0,
    frames: Frames = None,
    speed: Speed = 1.0,
    smooth: Smooth = 0.0,
    reverse: Backwards = False,
    loop: Loop = 1,
    longest: Longest = False,
    motion: o.Motion = "absolute",
    reference: o.Reference = 0,
    source_face: o.SourceFace = "largest",
    resolution: o.Resolution = None,
    crop_scale: o.CropScale = None,
    paste_back: o.PasteBack = True,
    max_side: o.MaxSide = 1920,
    save_motion: o.SaveMotion = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Edit a portrait by sliders, or move it by a file of motion: seconds, no model, no video needed.

    A picture shows the first frame. In a video the motion's frame rate is kept.
    """
    from .editing import EditConfig, run  # brings torch, OpenCV and PyAV: not for `--help`

    cfg = EditConfig(
        source=source,
        output=output,
        edit=edit,
        motion_file=motion_file,
        eyes=eyes,
        mouth=mouth,
        first=first,
        frames=frames,
        speed=speed,
        smooth=smooth,
        reverse=reverse,
        loop=loop,
        longest=longest,
        motion=motion,
        reference=reference,
        source_face=source_face,
        resolution=resolution,
        crop_scale=crop_scale,
        paste_back=paste_back,
        max_side=max_side,
        save_motion=save_motion,
        overwrite=overwrite,
    )
    raise typer.Exit(run(cfg))
