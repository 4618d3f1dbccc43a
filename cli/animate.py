"""`svdp animate`: a portrait and a driving video in, a video of the portrait out."""

from __future__ import annotations

import typer

from ..animation.config import NO_FILES, REGIONS, AnimateConfig, find_weights
from . import options as o


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(animate)


def animate(
    source: o.Source,
    driving: o.Driving,
    output: o.Output,
    start: o.Start = 0,
    max_frames: o.MaxFrames = None,
    paste_back: o.PasteBack = True,
    max_side: o.MaxSide = 1920,
    contact_sheet: o.ContactSheet = True,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    force: o.Force = False,
    draft: o.Draft = False,
    weights: o.Weights = None,
    base: o.Base = None,
    adapter: o.Adapter = None,
    autoencoder: o.Autoencoder = None,
    strength: o.Strength = 1.0,
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    regions: o.Regions = ",".join(REGIONS),
    brows: o.Brows = False,
    dilation: o.Dilation = 0.16,
    motion: o.Motion = "absolute",
    reference: o.Reference = 0,
    edit: o.Edit = "",
    motion_file: o.MotionFile = None,
    save_motion: o.SaveMotion = None,
    select_face: o.SelectFace = "largest",
    source_face: o.SourceFace = "largest",
    resolution: o.Resolution = None,
    crop_scale: o.CropScale = None,
    preset: o.Preset = "balanced",
    steps: o.Steps = None,
    seed: o.Seed = 0,
    solver: o.Solver = None,
    fusion_source: o.FusionSource = None,
    fusion_driving: o.FusionDriving = None,
    fusion_history: o.FusionHistory = None,
    fusion_rescale: o.FusionRescale = None,
    segment_length: o.SegmentLength = None,
    history: o.History = None,
    history_noise: o.HistoryNoise = None,
    start_level: o.StartLevel = None,
    detail: o.Detail = 1.0,
) -> None:
    """Animate a portrait with a driving video.

    Sound, frame rate and number of frames are the driver's. OUT.mp4 is made in the folder OUT.mp4.partial and moved
    when it is whole; a run that is stopped or killed leaves a playable video there, and --resume goes on from it.
    OUT.sheet.png shows source, driver, masked signal and result.
    """
    files = weights, base, adapter, autoencoder
    cfg = AnimateConfig(
        source=source,
        driving=driving,
        output=output,
        start=start,
        max_frames=max_frames,
        paste_back=paste_back,
        max_side=max_side,
        contact_sheet=contact_sheet,
        overwrite=overwrite,
        resume=resume,
        force=force,
        weights=NO_FILES if draft and not any(files) else find_weights(*files),
        strength=strength,
        device=device,
        dtype=dtype,
        regions=tuple(part.strip() for part in regions.split(",") if part.strip()),
        brows=brows,
        dilation=dilation,
        motion=motion,
        reference=reference,
        edit=edit,
        motion_file=motion_file,
        save_motion=save_motion,
        select_face=select_face,
        source_face=source_face,
        resolution=resolution,
        crop_scale=crop_scale,
        preset=preset,
        steps=steps,
        seed=seed,
        solver=solver,
        fusion_source=fusion_source,
        fusion_driving=fusion_driving,
        fusion_history=fusion_history,
        fusion_rescale=fusion_rescale,
        segment_length=segment_length,
        history=history,
        history_noise=history_noise,
        start_level=start_level,
        draft=draft,
        detail=detail,
    )
    from .run import run  # brings torch, OpenCV and PyAV: not for `--help`

    raise typer.Exit(run(cfg))
