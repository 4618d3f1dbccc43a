"""`svdp train`, `svdp data build`, `svdp data inspect`, `svdp bundle`: from portraits and clips to own weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..training.config import TrainConfig
    from ..training.data.sources import DataConfig

EXTRA = ("accelerate", "numba", "tensorboard")

Config = Annotated[Path, typer.Argument(help="TOML file; see configs/.", show_default=False)]
Root = Annotated[list[str] | None, typer.Option(help="NAME=FOLDER: where a [roots] entry lies here. Repeatable.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(train)
    data = typer.Typer(help="Training data: build shards, look at them.", no_args_is_help=True)
    data.command()(build)
    data.command()(inspect)
    data.command()(pack)
    app.add_typer(data, name="data")
    app.command()(bundle)


def train(
    config: Config,
    out: Annotated[
        Path | None, typer.Option(help="Where checkpoints, logs and weights go. [default: runs/NAME]")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the shards, instead of the file's [data] root.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, exactly.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Another budget of training time.", min=0)] = None,
    steps: Annotated[int | None, typer.Option(help="Another budget of steps.", min=1)] = None,
    start: Annotated[
        Path | None, typer.Option(help="Folder of weights to start from: *adapter and, if it was trained, *base.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Do not train: print the memory and time that it would take.")
    ] = False,
) -> None:
    """Train a model, or the tiny autoencoder (`kind = "autoencoder"`), as CONFIG says.

    Ctrl-C ends the run after the current step, with a checkpoint. Weights are in OUT/weights.
    """
    require_extra()
    out = out or Path("runs") / config.stem
    if _kind(config) == "autoencoder":
        given: dict[str, object] = {"--data": data, "--minutes": minutes, "--steps": steps, "--start": start}
        _refuse_given("an autoencoder", given | {"--estimate": estimate or None})
        _train_autoencoder(config, out, resume)
        return
    from ..training.config import load_config, with_overrides

    settings = with_overrides(load_config(config), data=str(data) if data else None, minutes=minutes, steps=steps)
    if start is not None:
        base, adapter = starting_weights(start)
        settings = with_overrides(settings, base=str(base) if base else None, start=str(adapter))
    if estimate:
        print_estimate(settings)
        return
    from ..training.loop import train as run

    result = run(settings, out, resume=resume)
    print(result.weights)
    if not result.finished:
        print(f"stopped at step {result.step}; go on with: svdp train {config} --out {out} --resume")


def starting_weights(folder: Path) -> tuple[Path | None, Path]:
    """Base (None if there is none: the configuration's serves) and adapter of a folder. Raises `UserError`."""
    found = {part: sorted(folder.glob(f"*{part}.safetensors")) for part in ("base", "adapter")}
    if len(found["adapter"]) != 1 or len(found["base"]) > 1:
        names = ", ".join(f.name for files in found.values() for f in files) or "none"
        raise UserError(f"--start {folder} needs one *adapter.safetensors and at most one *base.safetensors: {names}")
    return next(iter(found["base"]), None), found["adapter"][0]


def print_estimate(settings: TrainConfig) -> None:
    """What a run would cost, as a table."""
    from ..training.estimate import estimate

    cost, unit = estimate(settings), 2**30
    print(f"{cost.parameters / 1e6:.1f} M weights, {cost.trained / 1e6:.1f} M of them trained")
    parts = {
        "weights": cost.weights, "gradients": cost.gradients, "optimiser": cost.optimiser, "average": cost.average,
    }  # fmt: skip
    for name, size in parts.items():
        print(f"{name:<12}{size / unit:8.2f} GiB")
    for number, s in enumerate(cost.stages, 1):
        print(
            f"stage {number:<6}{s.activations / unit:8.2f} GiB of activations, {s.operations / 1e12:.2f} TFLOP and "
            f"{s.seconds:.2f} s a step ({s.stage.batch} clips of {s.stage.frames} + {s.stage.history} frames)"
        )
    print(f"memory      {cost.memory / unit:8.2f} GiB at the peak, counted, on each device; libraries come on top")
    if settings.sharding == "fsdp":
        print("            gradients, optimiser and average are split among the devices; so are weights between passes")
    peak = f", {cost.timed_peak / unit:.2f} GiB at the peak" if cost.timed_peak else ""
    print(f"timed       {cost.timed} on this machine: {cost.rate / 1e9:.0f} GFLOP/s{peak}")
    print(f"whole run   {cost.steps:.0f} steps, {cost.seconds / 3600:.1f} h on one device like this")


def _train_autoencoder(config: Path, out: Path, resume: bool) -> None:
    from ..training.autoencoder import AutoencoderConfig
    from ..training.autoencoder import train as run
    from ..training.config import read_toml

    print(run(AutoencoderConfig.from_table(read_toml(config), config.parent), out, resume))


def _kind(config: Path) -> str:
    from ..training.config import read_toml

    kind = read_toml(config).get("kind", "denoiser")
    if kind not in ("denoiser", "autoencoder"):
        raise UserError(f"{config} is of kind {kind!r}, which `svdp train` does not know: denoiser or autoencoder")
    return kind


def _refuse_given(what: str, options: dict[str, object]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UserError(f"{', '.join(given)} does not apply to {what}: set it in the configuration file")


def build(
    config: Annotated[Path, typer.Argument(help="TOML file like configs/mini-data.toml.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder for the shards.", show_default=False)],
    clips: Annotated[int, typer.Option(help="Clips to have at least (whole shards).", min=1)] = 400,
    split: Annotated[str, typer.Option(help="train, or heldout: identities that training never sees.")] = "train",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Processes; each takes about 1 GB.", min=1)] = 1,
    root: Root = None,
    head_model: Annotated[Path | None, typer.Option(help="Head made by `python -m svdp.heads.bake`.")] = None,
    autoencoder: Annotated[Path | None, typer.Option(help="Encoder in SD3's latent space, TAESD form.")] = None,
) -> None:
    """Build shards of latents: rendered cross-identity pairs and self-driven clips. Finished shards are kept."""
    require_extra()
    from ..training.data.build import build as run

    settings = _data_config(config, root, {"head_model": head_model, "autoencoder": autoencoder})
    manifest = run(settings, out, split, clips, seed, workers, lambda done: print(f"{done} clips"))
    counts = ", ".join(f"{name} {part['clips']} clips" for name, part in manifest["splits"].items())
    print(f"{out}: {counts}")


def pack(
    config: Annotated[Path, typer.Argument(help="TOML file like configs/bundled-data.toml.")],
    out: Annotated[Path, typer.Argument(help="Folder for the two files.")],
    root: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER: where a root of the file lies.")] = None,
) -> None:
    """Pack faces and clips for the few-step training, as `scripts/make_bundled.py` does: two small files."""
    require_extra()
    from ..training.data.pack import write_pack

    counts = write_pack(_data_config(config, root, {}), out)
    typer.echo(f"{counts['faces']} faces and {counts['clips']} clips in {out}")


def _data_config(path: Path, roots: list[str] | None, files: dict[str, Path | None]) -> DataConfig:
    from ..training.data.sources import load_data_config

    overrides: dict[str, object] = {name: str(file.resolve()) for name, file in files.items() if file is not None}
    pairs = [entry.partition("=") for entry in roots or []]
    wrong = [name for name, equals, folder in pairs if not (name and equals and folder)]
    if wrong:
        raise UserError(f"--root takes NAME=FOLDER, got {wrong[0]!r}")
    return load_data_config(path, overrides | {"roots": {name: str(Path(f).resolve()) for name, _, f in pairs}})


def inspect(
    out: Annotated[Path, typer.Argument(help="Folder of the shards.", show_default=False)],
    split: Annotated[str, typer.Option(help="train or heldout.")] = "train",
    count: Annotated[int, typer.Option(help="Clips to draw.", min=1)] = 8,
    autoencoder: Annotated[
        Path | None, typer.Option(help="Decoder for the pictures; the bundled one by default.")
    ] = None,
) -> None:
    """Draw a contact sheet of shards: sources, targets, masked driver."""
    require_extra()
    from ..model.autoencoder import TinyAutoencoder
    from ..training.data.build import inspect as run

    bundled = sorted((Path(__file__).resolve().parents[1] / "assets").rglob("*autoencoder.safetensors"))
    file = autoencoder or (bundled[0] if bundled else None)
    print(run(out, split, count, TinyAutoencoder.load(file) if file else None))
    manifest = out / "manifest.json"
    for name, part in json.loads(manifest.read_text(encoding="utf-8"))["splits"].items() if manifest.is_file() else ():
        made = ", ".join(f"{count} {provider}" for provider, count in sorted(part["providers"].items())) or "none"
        files, shards = len(part["identities"]), len(part["shards"])
        print(f"{name}: {part['clips']} clips in {shards} shards ({made}); media: {files} files")


def bundle(
    run: Annotated[
        Path, typer.Argument(help="Folder with a run's weights: OUT/weights or OUT/best.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the three files.", show_default=False)],
    autoencoder: Annotated[Path, typer.Option(help="TAESD-form autoencoder to put beside them.")],
    name: Annotated[str, typer.Option(help="Files are called NAME_base, NAME_adapter, NAME_autoencoder.")] = "mini",
    steps: Annotated[int, typer.Option(help="Default sampling of these weights: steps,", min=1)] = 20,
    shift: Annotated[float, typer.Option(help="sigma shift,", min=0.1)] = 3.0,
    solver: Annotated[str, typer.Option(help="euler or dpmpp_2m,")] = "euler",
    fusion_source: Annotated[float, typer.Option(help="weight of the source,")] = 2.0,
    fusion_driving: Annotated[float, typer.Option(help="weight of the driver,")] = 2.5,
    fusion_history: Annotated[float, typer.Option(help="weight of the frames before,")] = 1.0,
    fusion_rescale: Annotated[
        float, typer.Option(help="how much of the contrast that the weights add is taken back.", min=0, max=1)
    ] = 0.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of that name.")] = False,
) -> None:
    """Put trained weights together as users get them; `svdp animate --weights OUT` takes the folder."""
    require_extra()
    from typing import cast

    from ..model.config import FusionConfig, SamplingConfig
    from ..model.flow import Solver
    from ..training.bundle import bundle as write

    fusion = FusionConfig(source=fusion_source, driving=fusion_driving, history=fusion_history, rescale=fusion_rescale)
    sampling = SamplingConfig(steps=steps, shift=shift, solver=cast(Solver, solver), fusion=fusion)
    for path in write(run, autoencoder, out, name, sampling, overwrite=overwrite):
        print(path)


def require_extra() -> None:
    """Raise `UserError` if what training needs beyond the command line is not installed."""
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"training needs {', '.join(missing)}: install the extra, pip install 'video-driven-portraits[train]' or, "
            "in a checkout, pip install -e '.[train]'"
        )
