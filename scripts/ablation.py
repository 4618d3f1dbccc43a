"""Train the variants of the small model at equal budget, one after another, and put what they learnt side by side.

    python scripts/ablation.py runs/ablation --data data --minutes 60            # all
    python scripts/ablation.py runs/ablation --data data --steps 2000 mini mini@2 mini-joint
    python scripts/ablation.py runs/ablation --minutes 8 --curriculum configs/ablation/curriculum.toml --real \\
        configs/evaluation/ablation_runs.toml --media MEDIA

`--data` is the folder that holds the shards' folders (mini, mini-selfdriven), as the configurations call them; variants
without shards are left out, and named. `NAME@SEED` trains a variant with another seed: what differs then is noise.
A stopped run goes on where it was; finished ones are only measured again. The table, in OUT/ablation.md and .json, has
for each variant

- the time of a step, the held-out error of the velocity by branch, and the condition-swap gaps: how much worse it
  is with another clip's driver, source or history (near zero: ignored);
- of held-out rendered clips that are sampled: PSNR to the true frames, correlation of yaw and mouth with the driver;
- of real pairs (`--real`, a list of `svdp evaluate`): the same correlations, similarity of identity to source and
  driver, and the share of frames in which a face is found.

All are measured alike: the same clips, noise, windows, and sampling.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from svdp.errors import UserError
from svdp.training.config import TrainConfig, parse_config, with_overrides
from svdp.training.tables import merged, read_toml

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
VARIANTS = (
    "mini", "mini@12", "mini-joint", "mini-factorised", "mini-nohistory", "mini-selfdriven", "mini-tokens",
    "mini-aligned", "mini-tokensource",
)  # fmt: skip
COLUMNS = {
    "steps": "steps", "seconds": "s/step", "loss/d": "error d", "loss/p": "error p", "gap/driver/inside": "gap driver",
    "gap/source/outside": "gap source", "gap/history/outside": "gap history", "heldout/psnr": "PSNR dB",
    "heldout/yaw": "yaw", "heldout/mouth_open": "mouth", "real/yaw": "real: yaw", "real/mouth_open": "real: mouth",
    "real/csim_source": "real: CSIM source", "real/csim_driver": "real: CSIM driver", "real/faces": "real: faces",
}  # fmt: skip
DIGITS = {"steps": 0, "seconds": 2, "heldout/psnr": 1}  # of the table; else 3 of errors and gaps, 2 of sampled results
SAMPLING = {"steps": 8, "solver": "dpmpp_2m", "fusion-source": 1.5, "fusion-driving": 2.5, "fusion-history": 1}


def main() -> None:
    """Train, measure, write the table."""
    options = parse()
    rows: dict[str, dict[str, float]] = {}
    for name in options.variants or VARIANTS:
        config, out = configuration(name, options), options.out / name.rpartition("/")[2].replace(".toml", "")
        try:
            run_apart(train_variant, config, out)
            rows[out.name] = run_apart(measure_variant, config, out)
        except UserError as error:
            typer.echo(f"{name} left out: {error}")
            continue
        rows[out.name] |= sampled(config, options, out)
        options.out.joinpath("ablation.json").write_text(json.dumps(rows, indent=1))
        options.out.joinpath("ablation.md").write_text(table(rows) + "\n")
    typer.echo(table(rows))


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for runs and table")
    parser.add_argument(
        "variants", nargs="*", help=f"files, or names in configs/ and configs/ablation/; default: {' '.join(VARIANTS)}"
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the folders of shards")
    parser.add_argument("--minutes", type=float, help="of training, for each variant")
    parser.add_argument("--steps", type=int, help="updates, for each variant")
    parser.add_argument("--clips", type=int, default=16, help="held-out clips to measure with; half are sampled")
    parser.add_argument("--curriculum", type=Path, help="TOML file whose stages take the place of the variants' own")
    parser.add_argument("--real", type=Path, help="list of real pairs to animate, as of svdp evaluate")
    parser.add_argument("--media", type=Path, help="folder at which the list's paths start")
    parser.add_argument("--embedder", default="auto", help="identity by: see svdp evaluate")
    options = parser.parse_intermixed_args()
    if options.minutes is None and options.steps is None:
        parser.error("give the budget of each variant: --minutes or --steps")
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def config_path(name: str) -> Path:
    """The file of a configuration by its name: a variant's, or the small model's own."""
    variant = CONFIGS / "ablation" / f"{name}.toml"
    return variant if variant.is_file() else CONFIGS / f"{name}.toml"


def configuration(name: str, options: argparse.Namespace) -> TrainConfig:
    """The variant on this machine's shards with the common budget and curriculum."""
    file, _, seed = name.partition("@")
    path = Path(file) if file.endswith(".toml") else config_path(file)
    settings = {"name": path.stem, **read_toml(path)}
    if options.curriculum:
        settings = merged(settings, read_toml(options.curriculum))
    if seed:
        settings["seed"] = int(seed)
    config = parse_config(settings, str(path))
    config = with_overrides(
        config, data=str(options.data / Path(config.data.root).name), minutes=options.minutes, steps=options.steps
    )
    watch = replace(config.watch, probe_every=10**9, probe_clips=options.clips, grid_minutes=0.0)
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
    """Held-out errors, condition-swap gaps and time of a step of the averaged weights at the end."""
    from svdp.model.adapter import load_adapter
    from svdp.model.backends.diffusers import Denoiser, load_transformer
    from svdp.training.monitor import ConditionSwapGaps
    from svdp.training.setup import load_clips

    file = load_adapter(out / "weights" / "adapter.safetensors")
    denoiser = Denoiser(load_transformer(out / "weights" / "base.safetensors"), file.adapter).train(False)
    stage = config.stages[-1]
    gaps = ConditionSwapGaps(load_clips(config)[1], config.watch.probe_clips, seed=0, chunk=4)
    values = gaps.measure(denoiser, stage.frames, stage.history)
    steps, minutes = (file.info["training"][k] for k in ("step", "minutes"))
    return {**values, "steps": steps, "seconds": 60 * minutes / max(steps, 1)}


def sampled(config: TrainConfig, options: argparse.Namespace, out: Path) -> dict[str, float]:
    """What `svdp evaluate` says of sampled held-out clips and of real pairs; nothing where it finds no face."""
    if not config.watch.autoencoder:
        return {}
    shards = (Path(config.data.root) / config.data.heldout[0]).parent
    clips = str(max(1, options.clips // 2))
    runs = {"heldout": ["--shards", str(shards), "--provider", "rendered", "--clips", clips]}
    if options.real:
        runs["real"] = [str(options.real), "--overwrite"]
        runs["real"] += ["--media", str(options.media)] if options.media else []
    common = ["--autoencoder", config.watch.autoencoder, "--embedder", options.embedder]
    for name in ("base", "adapter"):
        common += [f"--{name}", str(out / "weights" / f"{name}.safetensors")]
    for name, value in SAMPLING.items():
        common += [f"--{name}", str(value)]
    values = {}
    for kind, arguments in runs.items():
        found = medians([*arguments, *common], out / kind)
        values |= {f"{kind}/{key}": value for key, value in found.items() if value is not None}
    return values


def medians(arguments: list[str], out: Path) -> dict[str, float | None]:
    """The medians of `svdp evaluate` with these arguments, whether it meets its bars or not; none if it fails."""
    results = out / "results.json"
    results.unlink(missing_ok=True)
    run_apart(evaluate, [*arguments, "--out", str(out)])
    return json.loads(results.read_text())["median"] if results.is_file() else {}


def evaluate(arguments: list[str]) -> None:
    """`svdp evaluate`, without its exit."""
    from svdp.cli.app import run

    with contextlib.suppress(SystemExit):
        run(["evaluate", *arguments])


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown; a dash where a variant has no such number (history, without history)."""
    lines = ["| variant | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
    for name, values in rows.items():
        cells = [_cell(key, values) for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(key: str, values: dict[str, float]) -> str:
    digits = DIGITS.get(key, 2 if "/" in key and key.split("/")[0] in ("heldout", "real") else 3)
    return f"{values[key]:.{digits}f}" if key in values else "-"


if __name__ == "__main__":
    main()
