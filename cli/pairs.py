"""Pairs of `svdp evaluate`: what is animated anew, what is kept, and what is measured of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..animation.config import AnimateConfig, WeightFiles
from ..errors import MediaError, UserError

if TYPE_CHECKING:
    import numpy as np

    from ..evaluation.manifest import Pair
    from ..evaluation.protocol import Identity
    from ..evaluation.report import Run
    from ..signals.crops import CropConfig

MADE = "made.json"  # in the output folder: what each video there was made from and with
DRAFT = "draft"  # the row's name
_NOT_IN_STAMP = ("output", "overwrite", "resume", "force", "contact_sheet", "weights", "source", "driving")


def write_portraits(pairs: Sequence[Pair], configs: dict[str, AnimateConfig], out: Path) -> dict[str, AnimateConfig]:
    """The same settings; where the source is a video, with the frame to animate, as OUT/NAME.source.png."""
    found = dict(configs)
    for pair in pairs:
        if pair.source_is_video:
            found[pair.name] = replace(configs[pair.name], source=_write_portrait(pair, configs[pair.name], out))
    return found


def animate_pairs(configs: dict[str, AnimateConfig], out: Path, *, reuse: bool, overwrite: bool) -> None:
    """Animate what is not there already. Raises UserError; exits with the run's code if one is interrupted."""
    from .run import run

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
        write_text(out / MADE, json.dumps(made, indent=1))


def add_drafts(
    pairs: Sequence[Pair], configs: dict[str, AnimateConfig], out: Path, *, reuse: bool, overwrite: bool
) -> list[Pair]:
    """The pairs with one more video to compare: the draft, OUT/NAME.draft.mp4. Raises as `animate_pairs`."""
    drafts = {
        f"{name}.draft": replace(
            cfg, draft=True, output=out / f"{name}.draft.mp4", contact_sheet=False, resolution=None,
            crop_scale=crop_rule(cfg)[0].scale,
        )
        for name, cfg in configs.items()
    }  # fmt: skip
    animate_pairs(drafts, out, reuse=reuse, overwrite=overwrite)
    return [replace(pair, compare={**pair.compare, DRAFT: drafts[f"{pair.name}.draft"].output}) for pair in pairs]


def measure_pairs(pairs: Sequence[Pair], configs: dict[str, AnimateConfig], identity: Identity) -> list[Run]:
    """The rows of all pairs and of their baselines."""
    from ..evaluation.protocol import evaluate_pair
    from ..signals.images import load_image

    runs: list[Run] = []
    for number, pair in enumerate(pairs, 1):
        typer.echo(f"measuring {pair.name} ({number} of {len(pairs)})", err=True)
        cfg = configs[pair.name]
        rule, length = crop_rule(cfg)
        source = load_image(cfg.source, max_side=cfg.max_side)
        own, *others = evaluate_pair(
            pair, cfg.output, source, rule=rule, identity=identity, segment_length=length,
            select=cfg.select_face, source_face=cfg.source_face,
        )  # fmt: skip
        runs += [replace(own, details={**own.details, **_stamp(cfg)}), *others]
    return runs


def write_text(path: Path, text: str) -> None:
    """Write a file of the output folder. Raises MediaError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MediaError(f"cannot write {path} ({error.strerror}): choose another folder with --out") from error


def crop_rule(cfg: AnimateConfig) -> tuple[CropConfig, int]:
    """How the model saw source and driver, and the length of its segments; as `pipeline.load_model` settles them."""
    from ..model.adapter import load_adapter
    from ..signals.crops import CropConfig

    adapter = load_adapter(cfg.weights.adapter).adapter.config
    rule = CropConfig(size=cfg.resolution or adapter.resolution, scale=cfg.crop_scale or adapter.crop_scale)
    return rule, cfg.segment_length or adapter.segment_length


def _write_portrait(pair: Pair, cfg: AnimateConfig, out: Path) -> Path:
    import numpy as np

    from ..signals.images import load_image, save_image

    path = out / f"{pair.name}.source.png"
    picture = _portrait(pair, cfg)
    out.mkdir(parents=True, exist_ok=True)
    if not path.exists() or not np.array_equal(load_image(path), picture):  # else its time says that it is the same
        save_image(path, picture)
    return path


def _portrait(pair: Pair, cfg: AnimateConfig) -> np.ndarray:
    """The frame that is asked for, or the one that suits best; of the driver, among the driving frames."""
    from ..evaluation.video import best_source_frame
    from ..signals.track import track_faces
    from ..signals.video import VideoReader

    if pair.source_frame is not None:
        return next(iter(VideoReader(pair.source, start=pair.source_frame, max_frames=1)))
    start = pair.start if pair.source == pair.driving else 0
    reader = VideoReader(pair.source, start=start, max_frames=pair.max_frames)
    track = track_faces(reader, float(reader.info.fps), select=cfg.source_face, smoothing=None)
    best = best_source_frame(track, crop_rule(cfg)[0])
    return next(iter(VideoReader(pair.source, start=start + best, max_frames=1)))


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
        made = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except OSError as error:
        raise MediaError(f"cannot use folder {out} ({error.strerror}): choose another with --out") from error
    except ValueError:
        made = {}
    return made if isinstance(made, dict) else {}
