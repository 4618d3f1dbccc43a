"""`svdp evaluate`: animate pairs or held-out clips, and say in numbers how good the results are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..animation.config import AnimateConfig, find_weights
from ..errors import UserError
from . import options as o
from .pairs import add_drafts, animate_pairs, crop_rule, measure_pairs, write_portraits, write_text

if TYPE_CHECKING:
    from ..evaluation.manifest import Pair
    from ..evaluation.protocol import Identity
    from ..evaluation.report import Report

Pairs = Annotated[
    Path | None, typer.Argument(help="TOML file with [\\[pair]] tables: name, source, driving.", metavar="[PAIRS.toml]")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for videos, sheets, plots, table.md and results.json.")]
Media = Annotated[
    Path | None, typer.Option(help="Folder at which the list's paths start, in place of its `root`.", file_okay=False)
]
Reuse = Annotated[
    bool, typer.Option("--reuse", help="Keep videos in the folder that were made from the same files and settings.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace videos in the folder.")]
Embedder = Annotated[
    str, typer.Option(help="Identity by: auto, dlib (extra 'identity'), none, or a .tflite file like MobileFaceNet.")
]
HeadModel = Annotated[
    Path | None,
    typer.Option(
        help="Head of `heads.bake`: also measure a mesh baseline, the textured head with the driver's motion ('train')."
    ),
]
Drafts = Annotated[
    bool, typer.Option("--drafts", help="Also make and measure the draft of every pair: the portrait's own 3D head.")
]
Ceiling = Annotated[
    bool,
    typer.Option(
        "--ceiling", help="Instead of results: how well the detector finds motion that was drawn and so is known."
    ),
]
_HELDOUT = "Held-out shards"
Shards = Annotated[
    Path | None,
    typer.Option(
        help="Instead of pairs: a folder of shards from `svdp data build`; PAIRS.toml may then hold bars.",
        rich_help_panel=_HELDOUT,
    ),
]
Clips = Annotated[
    int | None, typer.Option(help="At most so many clips, evenly spread.", min=1, rich_help_panel=_HELDOUT)
]
Provider = Annotated[
    str | None, typer.Option(help="Only clips of this kind: rendered or clip.", rich_help_panel=_HELDOUT)
]
TruthAutoencoder = Annotated[
    Path | None,
    typer.Option(help="Decodes the true frames. By default the model's autoencoder.", rich_help_panel=_HELDOUT),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    out: Out,
    pairs: Pairs = None,
    media: Media = None,
    reuse: Reuse = False,
    overwrite: Overwrite = False,
    embedder: Embedder = "auto",
    head_model: HeadModel = None,
    drafts: Drafts = False,
    ceiling: Ceiling = False,
    shards: Shards = None,
    clips: Clips = None,
    provider: Provider = None,
    truth_autoencoder: TruthAutoencoder = None,
    paste_back: o.PasteBack = True,
    weights: o.Weights = None,
    base: o.Base = None,
    adapter: o.Adapter = None,
    autoencoder: o.Autoencoder = None,
    device: o.Device = "auto",
    dtype: o.DType = "auto",
    motion: o.Motion = "absolute",
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
) -> None:
    r"""Animate pairs of portrait and driving clip, or held-out shards, and measure the results.

    Prints tables: how well head, mouth, lids and gaze follow the driver and how far they are off, found anew in the
    results; identity (with the extra 'identity'); pixels and motion against the true video, where there is one; how
    steady the video is, at segment borders and over its length. The portrait held still is in the same tables. A number
    that cannot be measured is a dash, and why is said below. results.json has definitions and every frame's numbers.

    PAIRS.toml:
      root = "../media"          # where paths start, relative to the file
      \[least.median]             # optional: what is asked for; \[most.median], \[least.every], \[most.every] likewise
      yaw = 0.8
      [\[pair]]
      name = "anna-speech"
      source = "anna.png"        # or a video: its frame source_frame, by default the most usual one
      driving = "speech.mp4"
      max_frames = 72            # optional, as is start = 0
      target = "true.mp4"        # optional: what it should look like; the driver itself for self-reenactment
      compare = { other = "other.mp4" }   # optional: videos made otherwise, measured beside it

    With --shards, held-out clips of `svdp data build` are animated instead, and the true frames are the target.
    """
    of_pairs = {"--head-model": head_model, "--media": media, "--drafts": drafts or None, "--ceiling": ceiling or None}
    _check_options(pairs, shards, of_pairs, [clips, provider, truth_autoencoder])
    found = find_weights(weights, base, adapter, autoencoder)

    def config(pair: Pair | None) -> AnimateConfig:
        return AnimateConfig(
            source=pair.source if pair else out,
            driving=pair.driving if pair else out,
            output=out / f"{pair.name}.mp4" if pair else out,
            start=pair.start if pair else 0,
            max_frames=pair.max_frames if pair else None,
            overwrite=True,
            weights=found,
            paste_back=paste_back,
            device=device,
            dtype=dtype,
            motion=motion,
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
        )

    if ceiling:
        assert pairs is not None
        _evaluate_ceiling(pairs, media, config, out)
        return
    identity = _identity(embedder)
    if shards is not None:
        _evaluate_shards(shards, pairs, clips, provider, truth_autoencoder, config(None), identity)
    else:
        assert pairs is not None
        _evaluate_pairs(
            pairs, media, config, out, identity, head_model, drafts=drafts, reuse=reuse, overwrite=overwrite
        )


def _evaluate_pairs(
    path: Path,
    media: Path | None,
    config: Callable[[Pair], AnimateConfig],
    out: Path,
    identity: Identity,
    head_model: Path | None,
    *,
    drafts: bool,
    reuse: bool,
    overwrite: bool,
) -> None:
    from ..evaluation.columns import COLUMNS
    from ..evaluation.manifest import read_pairs
    from ..evaluation.report import Report

    manifest = read_pairs(path, [column.key for column in COLUMNS], media)
    pairs = list(manifest.pairs)
    configs = write_portraits(pairs, {pair.name: config(pair) for pair in pairs}, out)
    animate_pairs(configs, out, reuse=reuse, overwrite=overwrite)
    if head_model is not None:
        from .mesh_baseline import add_mesh_baselines

        pairs = add_mesh_baselines(pairs, configs, out, head_model, crop_rule(configs[pairs[0].name])[0])
    if drafts:
        pairs = add_drafts(pairs, configs, out, reuse=reuse, overwrite=overwrite)
    runs = measure_pairs(pairs, configs, identity)
    _show(Report(columns=COLUMNS, runs=runs, bars=manifest.bars), out, path.stem)


def _evaluate_ceiling(path: Path, media: Path | None, config: Callable[[Pair], AnimateConfig], out: Path) -> None:
    from ..evaluation.columns import COLUMNS
    from ..evaluation.manifest import read_pairs
    from ..evaluation.report import Report
    from .ceiling import measure_ceilings

    pairs = read_pairs(path, [column.key for column in COLUMNS], media).pairs
    configs = write_portraits(pairs, {pair.name: config(pair) for pair in pairs}, out)
    _show(Report(columns=COLUMNS, runs=measure_ceilings(pairs, configs)), out, f"{path.stem}, ceiling")


def _evaluate_shards(
    folder: Path,
    bars: Path | None,
    clips: int | None,
    provider: str | None,
    truth: Path | None,
    cfg: AnimateConfig,
    identity: Identity,
) -> None:
    from ..evaluation.columns import COLUMNS
    from ..evaluation.manifest import read_bars
    from ..evaluation.report import Report
    from .heldout import choose_clips, evaluate_shards

    wanted = read_bars(bars, [column.key for column in COLUMNS]) if bars else []
    runs, gaps = evaluate_shards(choose_clips(folder, clips, provider), cfg, cfg.output, identity, truth)
    notes = [
        f"condition-swap gap of the {name.replace('/', ', ')} the regions: {gap:+.3f}" for name, gap in gaps.items()
    ]
    report = Report(columns=COLUMNS, runs=runs, bars=wanted, notes=notes, extra={"condition_swap_gaps": gaps})
    _show(report, cfg.output, f"{folder.parent.name}/{folder.name}")


def _check_options(
    pairs: Path | None, shards: Path | None, of_pairs: dict[str, object], of_shards: list[object]
) -> None:
    """Raise UserError for options that say nothing."""
    if pairs is None and shards is None:
        raise UserError("name a list of pairs (PAIRS.toml), or --shards FOLDER")
    if shards is None and any(of_shards):
        raise UserError("--clips, --provider and --truth-autoencoder belong to --shards")
    idle = [name for name, value in of_pairs.items() if shards is not None and value is not None]
    if idle:
        raise UserError(f"{', '.join(idle)} belongs to a list of pairs, not to --shards")
    if of_pairs["--head-model"] is not None:
        from .train import require_extra

        require_extra()


def _identity(choice: str) -> Identity:
    from ..evaluation.identity import find_embedder
    from ..evaluation.protocol import Identity

    return Identity(*find_embedder(choice))


def _show(report: Report, out: Path, title: str) -> None:
    """Write tables, numbers and plots; print the tables and where everything is."""
    from rich.console import Console

    from ..evaluation.plots import draw_report

    write_text(out / "table.md", report.markdown())
    write_text(out / "results.json", json.dumps(report.json(), indent=1, allow_nan=False))
    names = ["table.md", "results.json", *draw_report(report, out), "*.sheet.png"]
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(report.rich(title))
        for line in report.remarks():
            console.print(line, markup=False, soft_wrap=True)
    else:
        print(report.markdown())
    for name in names:
        print(out / name)
