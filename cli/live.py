"""`svdp live`: a portrait that moves as the person before the camera does, at once, in a window or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o

Input = Annotated[str, typer.Option("--input", "-i", help="Number of a camera, or a video, played in real time.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Video to write (.mp4) in place of the window.")]
Size = Annotated[int, typer.Option("--resolution", help="Side of the picture, pixels.", min=128, max=1024)]
Strength = Annotated[float, typer.Option(help="Of all motion; keys + and - change it.", min=0, max=3)]
Motion = Annotated[str, typer.Option(help="relative: counted from the neutral pose; absolute: the driver's own.")]
Edits = Annotated[str, typer.Option("--edit", "-e", help="Offsets and strengths, as in `svdp edit`.")]
Mirror = Annotated[bool, typer.Option(help="As in a mirror; for cameras.")]
MaxFrames = Annotated[int | None, typer.Option(help="Stop after so many frames of the input.", min=1)]

KEYS = "Keys: n takes the pose of now as neutral, + and - change the strength, a switches between absolute and "
KEYS += "relative motion, r is for another person, q or Escape ends."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=KEYS)(live)


def live(
    source: o.Source,
    input: Input = "0",
    output: Output = None,
    resolution: Size = 256,
    strength: Strength = 1.0,
    motion: Motion = "relative",
    edit: Edits = "",
    mirror: Mirror = True,
    crop_scale: o.CropScale = None,
    source_face: o.SourceFace = "largest",
    max_frames: MaxFrames = None,
    overwrite: o.Overwrite = False,
) -> None:
    """Move a portrait live by a camera: its 3D head alone, no model.

    Frames are skipped rather than shown late. Sit as the portrait does at first: that pose is the neutral one.
    """
    from .live_run import LiveConfig, run  # brings torch, OpenCV and PyAV: not for `--help`

    cfg = LiveConfig(
        source=source,
        input=input,
        output=output,
        size=resolution,
        strength=strength,
        motion=motion,
        edit=edit,
        mirror=mirror,
        crop_scale=crop_scale,
        source_face=source_face,
        max_frames=max_frames,
        overwrite=overwrite,
    )
    raise typer.Exit(run(cfg))
