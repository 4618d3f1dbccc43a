"""How a model got better with training, and how much more the bars of `configs/evaluation/heldout.toml` would take.

    python scripts/learning_curve.py runs/curve runs/mini/kept/* --shards data/mini/heldout --clips 8
    python scripts/learning_curve.py runs/curve runs/a/weights=60 runs/b/weights=190 --shards data/mini/heldout

Each folder holds weights of one training at another time: `weights` of a run, copied now and then. FOLDER=MINUTES says
how long it was trained, where the weights themselves say something else. All are measured alike: held-out clips are
sampled as `svdp evaluate --shards` does. OUT/curve.md and .json have the numbers by minutes. For each bar they have the
minutes at which a power law of its shortfall (1 - correlation; for PSNR the mean squared error) would reach it.
That is an extrapolation, so a range goes with it: the same from draws of the points with replacement.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import typer
from ablation import medians, run_apart

BARS = {"psnr": 22.0, "ssim": 0.75, "yaw": 0.95, "pitch": 0.95, "mouth_open": 0.9, "blink": 0.7}
SHOWN = (*BARS, "csim_source", "seam")
DRAWS = 2000


def main() -> None:
    """Measure every folder, fit, write."""
    options = parse()
    points = sorted((measure(folder, options) for folder in options.weights), key=lambda point: point["minutes"])
    fits = {key: reach(points, key, bar) for key, bar in BARS.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    options.out.joinpath("curve.json").write_text(json.dumps({"points": points, "reach": fits}, indent=1))
    options.out.joinpath("curve.md").write_text(table(points, fits) + "\n")
    typer.echo(table(points, fits))


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument(
        "weights", nargs="+", help="folders with base and adapter.safetensors: FOLDER or FOLDER=MINUTES"
    )
    parser.add_argument("--shards", type=Path, required=True, help="held-out shards")
    parser.add_argument("--clips", type=int, default=8, help="rendered clips to sample")
    parser.add_argument("--autoencoder", default="assets/vae/mini_autoencoder.safetensors")
    parser.add_argument("--sampling", default="", help="further options of svdp evaluate, in one string")
    return parser.parse_intermixed_args()


def measure(weights: str, options: argparse.Namespace) -> dict[str, Any]:
    """Minutes of training of these weights and the medians of their sampled clips; None where no face is found."""
    name, _, given = weights.partition("=")
    folder = Path(name)
    arguments = [f"--{part}={folder / part}.safetensors" for part in ("base", "adapter")]
    arguments += [f"--shards={options.shards}", "--provider=rendered", f"--clips={options.clips}"]
    arguments += [f"--autoencoder={options.autoencoder}", *options.sampling.split()]
    found = medians(arguments, options.out / "-".join(folder.parts[-2:]))
    minutes = float(given) if given else run_apart(minutes_of, folder)
    return {"minutes": minutes, **{key: found.get(key) for key in SHOWN}}


def minutes_of(folder: Path) -> float:
    """Minutes of training that the weights say they had."""
    from svdp.model.adapter import load_adapter

    return load_adapter(folder / "adapter.safetensors").info["training"]["minutes"]


def shortfall(key: str, value: float) -> float:
    """What a perfect result has none of."""
    return 10 ** (-value / 10) if key == "psnr" else 1.0 - value


def reach(points: list[dict[str, Any]], key: str, bar: float) -> dict[str, float | None]:
    """Minutes at which the power law through the points reaches the bar, with 5 and 95 % of resampled points.

    None where the law does not lead there: the number does not get better, or not in a million years.
    """
    known = [(p["minutes"], shortfall(key, p[key])) for p in points if p[key] is not None]
    if not known:
        return dict.fromkeys(("minutes", "low", "high"))
    x, y = np.log(np.array(known).T)
    rng = np.random.default_rng(0)
    draws = [_crossing(x[chosen], y[chosen], key, bar) for chosen in rng.integers(0, len(x), (DRAWS, len(x)))]
    low, high = np.percentile(draws, [5, 95], method="nearest")
    return {
        name: _finite(value) for name, value in (("minutes", _crossing(x, y, key, bar)), ("low", low), ("high", high))
    }


def _crossing(x: np.ndarray, y: np.ndarray, key: str, bar: float) -> float:
    if len(np.unique(x)) < 2:
        return math.inf
    slope, start = np.polyfit(x, y, 1)
    return (math.log(shortfall(key, bar)) - start) / slope if slope < 0 else math.inf


def _finite(log_minutes: float) -> float | None:
    return float(math.exp(log_minutes)) if log_minutes < math.log(5e11) else None


def table(points: list[dict[str, Any]], fits: dict[str, dict[str, float | None]]) -> str:
    """Markdown: a line for each folder, and one for the bars' extrapolation."""
    lines = ["| minutes | " + " | ".join(SHOWN) + " |", "|---:|" + "---:|" * len(SHOWN)]
    for point in points:
        cells = ["-" if point[k] is None else f"{point[k]:.2f}" for k in SHOWN]
        lines.append(f"| {point['minutes']:.0f} | " + " | ".join(cells) + " |")
    bars = [f"{BARS[k]:g}" if k in BARS else "" for k in SHOWN]
    hours = [_hours(fits[k]) if k in fits else "" for k in SHOWN]
    lines += ["| bar | " + " | ".join(bars) + " |", "| hours to the bar (5 to 95 %) | " + " | ".join(hours) + " |"]
    return "\n".join(lines)


def _hours(fit: dict[str, float | None]) -> str:
    shown = {k: "never" if v is None else f"{v / 60:.2g}" for k, v in fit.items()}
    return f"{shown['minutes']} ({shown['low']} to {shown['high']})"


if __name__ == "__main__":
    main()
