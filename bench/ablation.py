"""Train the variants of the small model at equal budget, one after another, and put what they learnt side by side.

    python bench/ablation.py runs/ablation --data data --minutes 60            # all
    python bench/ablation.py runs/ablation --data data --steps 2000 mini mini-joint

`--data` is the folder that holds the shards' folders (mini, mini-selfdriven), as the configurations call them; variants
without shards are left out, and named. A stopped run goes on where it was; finished ones are only measured again. The
table, in OUT/ablation.md and .json, has for each variant the held-out error of the velocity by branch, the use gaps
(how much worse with another clip's driver, source, history; near zero: ignored), PSNR of sampled clips against the true
frames, and the time of a step. All are measured alike: the same held-out clips, noise, and windows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from svdp.errors import UserError
from svdp.training.config import TrainConfig, load_config, with_overrides

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
VARIANTS = (
    "mini", "mini-joint", "mini-factorised", "mini-nohistory", "mini-selfdriven", "mini-tokens", "mini-aligned",
    "mini-alignedsource",
)  # fmt: skip
COLUMNS = {
    "steps": "steps", "seconds": "s/step", "loss/d": "error d", "loss/p": "error p", "gap/driver/inside": "gap driver",
    "gap/source/outside": "gap source", "gap/history/outside": "gap history", "psnr": "PSNR dB",
}  # fmt: skip


def main() -> None:
    """Train, measure, write the table."""
    options = parse()
    rows: dict[str, dict[str, float]] = {}
    for file in options.variants or VARIANTS:
        config, name = configuration(file, options), Path(file).stem
        try:
            run_apart(train_variant, config, options.out / name)
            rows[name] = run_apart(measure_variant, config, options.out / name)
        except UserError as error:
            typer.echo(f"{name} left out: {error}")
            continue
        options.out.joinpath("ablation.json").write_text(json.dumps(rows, indent=1))
        options.out.joinpath("ablation.md").write_text(table(rows) + "\n")
    typer.echo(table(rows))


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for runs and table")
    parser.add_argument("variants", nargs="*", help=f"files, or names in configs/; default: {' '.join(VARIANTS)}")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the folders of shards")
    parser.add_argument("--minutes", type=float, help="of training, for each variant")
    parser.add_argument("--steps", type=int, help="updates, for each variant")
    parser.add_argument("--clips", type=int, default=16, help="held-out clips to measure with")
    options = parser.parse_intermixed_args()
    if options.minutes is None and options.steps is None:
        parser.error("give the budget of each variant: --minutes or --steps")
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def configuration(name: str, options: argparse.Namespace) -> TrainConfig:
    """The variant on this machine's shards with the common budget."""
    config = load_config(name if name.endswith(".toml") else CONFIGS / f"{name}.toml")
    root = str(options.data / Path(config.data.root).name)
    config = with_overrides(config, data=root, minutes=options.minutes, steps=options.steps)
    few = min(options.clips, 8)
    watch = replace(config.watch, probe_clips=options.clips, grid_clips=few, grid_minutes=0.0, grid_video=False)
    return replace(config, watch=watch)


def run_apart(function: Any, *arguments: Any) -> Any:
    """The function's result from a process of its own, so that no run leaves anything to the next."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def train_variant(config: TrainConfig, out: Path) -> None:
    """Train, or go on, until the budget is spent."""
    from svdp.training.loop import train

    train(config, out, resume=(out / "checkpoints" / "last.safetensors").is_file())


def measure_variant(config: TrainConfig, out: Path) -> dict[str, float]:
    """Held-out errors, use gaps, PSNR and time of a step of the averaged weights at the end."""
    import torch
    from svdp.model.adapter import load_adapter
    from svdp.model.hosts.diffusers import Denoiser, load_transformer
    from svdp.training.grids import SampleGrid
    from svdp.training.monitor import UseGaps
    from svdp.training.setup import load_clips

    file = load_adapter(out / "weights" / "adapter.safetensors")
    denoiser = Denoiser(load_transformer(out / "weights" / "base.safetensors"), file.adapter).train(False)
    heldout, stage = load_clips(config)[1], config.stages[-1]
    gaps = UseGaps(heldout, config.watch.probe_clips, seed=0, chunk=4)
    values = gaps.measure(denoiser, stage.frames, stage.history)
    grid = SampleGrid(config, heldout, out / "samples")
    if grid.possible:
        with torch.no_grad():
            values["psnr"] = grid.draw(denoiser, stage, file.info["training"]["step"])[1]
    steps, minutes = (file.info["training"][k] for k in ("step", "minutes"))
    return {**values, "steps": steps, "seconds": 60 * minutes / max(steps, 1)}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown; a dash where a variant has no such number (history, without history)."""
    lines = ["| variant | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
    for name, values in rows.items():
        cells = [_cell(key, values) for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(key: str, values: dict[str, float]) -> str:
    if key not in values:
        return "-"
    return f"{values[key]:.0f}" if key == "steps" else f"{values[key]:.{2 if key in ('seconds', 'psnr') else 3}f}"


if __name__ == "__main__":
    main()
