"""`svdp evaluate`: animate a list of pairs and say in numbers how well the results follow their drivers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MediaError, UserError
from . import options as o
from .config import AnimateConfig, WeightFiles, find_weights

if TYPE_CHECKING:
    from ..evaluation.manifest import Pair
    from ..evaluation.report import Report

MADE = "made.json"  # in the output folder: what each video there was made from and with
_NOT_IN_STAMP = ("output", "overwrite", "contact_sheet", "weights", "source", "driving")

Pairs = Annotated[
    Path, typer.Argument(help="TOML file with [[pair]] tables: name, source, driving.", metavar="PAIRS.toml")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for videos, contact sheets, table.md and results.json.")]
Reuse = Annotated[
    bool, typer.Option("--reuse", help="Keep videos in the folder that were made from the same files and settings.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace videos in the folder.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    pairs: Pairs,
    out: Out,
    reuse: Reuse = False,
    overwrite: Overwrite = False,
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
    steps: o.Steps = None,
    seed: o.Seed = 0,
    solver: o.Solver = None,
    fusion_source: o.FusionSource = None,
    fusion_driving: o.FusionDriving = None,
    fusion_history: o.FusionHistory = None,
) -> None:
    """Animate pairs of portrait and driving clip, find the face in the results anew, and compare its motion.

    Prints a table: share of frames with a face, correlation with the driver over time of yaw, pitch, roll, mouth
    opening, blink and gaze, equal number of frames, sound kept. A number that cannot be measured is a dash, and why is
    said below.

    PAIRS.toml:
      root = "../media"          # where paths start, relative to the file
      [least.median]             # optional: what is asked for
      yaw = 0.8
      [[pair]]
      name = "anna-speech"
      source = "anna.png"
      driving = "speech.mp4"
      max_frames = 72            # optional, as is start = 0
    """
    found = find_weights(weights, base, adapter, autoencoder)

    def config(pair: Pair) -> AnimateConfig:
        return AnimateConfig(
            source=pair.source,
            driving=pair.driving,
            output=out / f"{pair.name}.mp4",
            start=pair.start,
            max_frames=pair.max_frames,
            overwrite=True,
            weights=found,
            paste_back=paste_back,
            device=device,
            dtype=dtype,
            motion=motion,
            resolution=resolution,
            crop_scale=crop_scale,
            steps=steps,
            seed=seed,
            solver=solver,
            fusion_source=fusion_source,
            fusion_driving=fusion_driving,
            fusion_history=fusion_history,
        )

    from ..evaluation.manifest import read_pairs
    from ..evaluation.protocol import COLUMNS

    manifest = read_pairs(pairs, [column.key for column in COLUMNS])
    configs = {pair.name: config(pair) for pair in manifest.pairs}
    _make(configs, out, reuse=reuse, overwrite=overwrite)
    _show(_measure(manifest.pairs, manifest.bars, configs), out, pairs.stem)


def _make(configs: dict[str, AnimateConfig], out: Path, *, reuse: bool, overwrite: bool) -> None:
    """Animate what is not there already. Raises UserError; exits with the run's code if one is interrupted."""
    from .animation import run

    made = _read_made(out)
    there = [name for name, cfg in configs.items() if cfg.output.exists()]
    if there and not (reuse or overwrite):
        raise UserError(
            f"{out} already holds {len(there)} of the videos ({there[0]}.mp4, ...): choose another folder with --out, "
            "or add --reuse to keep those that fit or --overwrite to make them anew"
        )
    for number, (name, cfg) in enumerate(configs.items(), 1):
        stamp = _stamp(cfg)
        if reuse and cfg.output.exists() and made.get(name) == stamp:
            continue
        typer.echo(f"{name} ({number} of {len(configs)})", err=True)
        made.pop(name, None)
        code = run(cfg)
        if code:
            raise typer.Exit(code)
        made[name] = stamp
        _write(out / MADE, json.dumps(made, indent=1))


def _measure(pairs: Sequence[Pair], bars: Sequence[Any], configs: dict[str, AnimateConfig]) -> Report:
    from ..evaluation.protocol import COLUMNS, evaluate_pair
    from ..evaluation.report import Report

    runs = []
    for pair in pairs:
        cfg = configs[pair.name]
        run = evaluate_pair(
            pair.name, cfg.output, pair.driving, start=pair.start, max_frames=pair.max_frames, select=cfg.select_face
        )
        runs.append(replace(run, details={**run.details, **_stamp(cfg)}))
    return Report(columns=COLUMNS, runs=runs, bars=bars)


def _show(report: Report, out: Path, title: str) -> None:
    """Write table.md and results.json, print the table and where they are."""
    from rich.console import Console

    _write(out / "table.md", report.markdown())
    _write(out / "results.json", json.dumps(report.json(), indent=1, allow_nan=False))
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(report.rich(title))
        for line in [*report.reasons(), *report.verdicts()]:
            console.print(line, markup=False, soft_wrap=True)
    else:
        print(report.markdown())
    for name in ("table.md", "results.json", "*.sheet.png"):
        print(out / name)


def _stamp(cfg: AnimateConfig) -> dict[str, Any]:
    """What a video depends on, as JSON: files by path, size and time of change, and all settings."""
    settings = {key: value for key, value in asdict(cfg).items() if key not in _NOT_IN_STAMP}
    files = {"source": cfg.source, "driving": cfg.driving, **_weight_paths(cfg.weights)}
    stamp = {"settings": settings, "files": {key: _identity(path) for key, path in files.items()}}
    return json.loads(json.dumps(stamp))  # tuples become lists, as when read back


def _weight_paths(weights: WeightFiles) -> dict[str, Path]:
    return {"base": weights.base, "adapter": weights.adapter, "autoencoder": weights.autoencoder}


def _identity(path: Path) -> dict[str, Any]:
    about = path.stat()
    return {"path": str(path), "bytes": about.st_size, "changed_ns": about.st_mtime_ns}


def _read_made(out: Path) -> dict[str, Any]:
    path = out / MADE
    try:
        out.mkdir(parents=True, exist_ok=True)
        made = json.loads(path.read_text()) if path.exists() else {}
    except OSError as error:
        raise MediaError(f"cannot use folder {out} ({error.strerror}): choose another with --out") from error
    except ValueError:
        made = {}
    return made if isinstance(made, dict) else {}


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MediaError(f"cannot write {path} ({error.strerror}): choose another folder with --out") from error
