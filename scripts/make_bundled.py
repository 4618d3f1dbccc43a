"""Make a bundled model from nothing to an assets folder, as a recipe says.

    python scripts/make_bundled.py configs/bundled.toml runs/bundled --device cuda --workers 15 --media MEDIA

The steps, each of which writes a part of OUT:

- pack: faces and clips, two head models and the autoencoders, in OUT/pack. It needs the package's own requirements.
- train: the tiny autoencoder, then the posed model in its stages, in OUT/autoencoder and OUT/stage1, OUT/stage2, ...
  A bare machine will do: PyTorch, NumPy, numba, einops, OpenCV, safetensors and diffusers, and OUT from another one.
  Where the package is not installed, PYTHONPATH must name a folder in which this checkout is called `svdp`.
- bundle: base, adapter and autoencoder under their folders in OUT/assets.
- evaluate: `svdp evaluate` of the bundled files on the recipe's pairs, in OUT/evaluation. It needs --media.

What is done is kept: the same command goes on where it stopped. To do a step anew, remove OUT/STEP.done and what it
wrote.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from svdp.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from svdp.training.data.posed import Face, PosedSample, World
    from svdp.training.data.renderers import Renderers
    from svdp.training.recipe import Recipe

log = logging.getLogger("svdp.make_bundled")

START = "autoencoder.safetensors"  # in OUT/pack: what the autoencoder starts from


def main() -> None:
    """Do the steps that are not done."""
    options = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    from svdp.training.recipe import load_recipe

    recipe = load_recipe(options.recipe)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, step in STEPS.items():
        mark = options.out / f"{name}.done"
        if not mark.is_file():
            started = time.monotonic()
            if step(recipe, options):
                mark.touch()
            log.info("%s: %.0f s", name, time.monotonic() - started)
        if name == options.until:
            break


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="TOML file like configs/bundled.toml")
    parser.add_argument("out", type=Path, help="folder for everything that is made")
    parser.add_argument("--device", default="cpu", help="that trains: cpu, cuda, ...")
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    parser.add_argument("--until", choices=STEPS, help="last step to do")
    parser.add_argument("--root", action="append", default=[], help="NAME=FOLDER: where a root of the media list lies")
    parser.add_argument("--media", type=Path, help="folder at which the paths of the recipe's pairs start")
    return parser.parse_args()


# --- pack -------------------------------------------------------------------------------------------------------------


def pack(recipe: Recipe, options: argparse.Namespace) -> bool:
    """Everything that training needs, in one folder that can be copied to another machine."""
    from svdp.heads.landmarks import BUNDLED_TABLE, TABLE
    from svdp.heads.model import BUNDLED
    from svdp.model.autoencoder import TinyAutoencoder
    from svdp.training.data.pack import write_head, write_pack
    from svdp.training.data.sources import load_data_config

    inputs, folder = recipe.inputs, options.out / "pack"
    folder.mkdir(exist_ok=True)
    files = {
        "target_table.npz": inputs.head_table or TABLE,
        "posing_head.npz": BUNDLED,
        "posing_table.npz": BUNDLED_TABLE,
        "teacher.safetensors": inputs.teacher,
        "teacher_decoder.safetensors": inputs.teacher_decoder,
        START: inputs.autoencoder,
    }
    for name, path in files.items():
        if path and not Path(path).is_file():
            raise UserError(f"{path} is missing: put it there, or name another file in {options.recipe} [inputs]")
        if path:
            shutil.copyfile(path, folder / name)
    if recipe.autoencoder is None and not inputs.autoencoder:
        TinyAutoencoder.load(inputs.teacher, inputs.teacher_decoder).save(folder / START)
    write_head(Path(inputs.head), folder / "target_head.npz", inputs.head_modes)
    roots = dict(root.split("=", 1) for root in options.root)
    counts = write_pack(load_data_config(Path(inputs.data), {"roots": roots}), folder)
    log.info("%d faces, %d clips", counts["faces"], counts["clips"])
    return True


# --- train ------------------------------------------------------------------------------------------------------------


def train(recipe: Recipe, options: argparse.Namespace) -> bool:
    """The autoencoder and the stages, while processes render samples."""
    import torch
    from svdp.training.data.renderers import Renderers, draw_heldout, fit_world

    torch.backends.cudnn.benchmark = False  # batches differ in size
    torch.set_float32_matmul_precision("high")
    worlds = {split: fit_world(open_split(recipe, options, split), options.workers) for split in ("train", "heldout")}
    for split, world in worlds.items():
        if len(world.faces) < 2:
            raise UserError(f"only {len(world.faces)} faces of the split {split} fit: at least 2 are needed")
    heldout = draw_heldout(worlds["heldout"], recipe.pool.heldout, options.workers)
    with Renderers(worlds["train"], options.workers, seed=int(time.time())) as renderers:
        autoencoder = train_autoencoder(recipe, options, worlds["train"])
        train_stages(recipe, options, renderers, heldout, autoencoder)
    return True


def open_split(recipe: Recipe, options: argparse.Namespace, split: str) -> World:
    """Faces and clips of "train" or "heldout", and both heads."""
    from svdp.training.data.posed import open_head, open_world

    folder = options.out / "pack"
    target = open_head(folder / "target_head.npz", folder / "target_table.npz", recipe.samples)
    posing = open_head(folder / "posing_head.npz", folder / "posing_table.npz", recipe.samples)
    return open_world(folder, target, posing, recipe.samples, split)


def train_autoencoder(recipe: Recipe, options: argparse.Namespace, world: World) -> Path:
    """The trained autoencoder's file; without [autoencoder] that of the inputs."""
    import numpy as np
    from svdp.training import autoencoder
    from svdp.training.checkpoint import LAST

    folder, given = options.out / "autoencoder", options.out / "pack"
    if recipe.autoencoder is None:
        return given / START
    weights = folder / autoencoder.WEIGHTS
    if (folder / "done").is_file():
        return weights
    folder.mkdir(exist_ok=True)
    crops = folder / "crops.npy"
    if not crops.is_file():
        np.save(crops, np.stack([centre(face, recipe) for face in world.faces]))
    decoder, start = given / "teacher_decoder.safetensors", given / START
    config = replace(
        recipe.autoencoder,
        teacher=str(given / "teacher.safetensors"),
        teacher_decoder=str(decoder) if decoder.is_file() else "",
        start=str(start) if start.is_file() else "",
        crops_file=str(crops),
        device=options.device,
    )
    autoencoder.train(config, folder, resume=(folder / LAST).is_file())
    (folder / "done").touch()
    return weights


def centre(face: Face, recipe: Recipe) -> np.ndarray:
    """(S, S, 3) uint8: the middle of a face's canvas, as large as the autoencoder's crops."""
    from svdp.heads.scene import MARGIN

    assert recipe.autoencoder is not None
    size, side = recipe.autoencoder.crops.size, int(recipe.samples.size * (1 + 2 * MARGIN))
    edge = (side - size) // 2
    return face.canvas(side)[edge : edge + size, edge : edge + size].round().clip(0, 255).astype("uint8")


def train_stages(
    recipe: Recipe, options: argparse.Namespace, renderers: Renderers, heldout: list[PosedSample], autoencoder: Path
) -> None:
    """Each stage starts from the weights of the one before, and draws from the same samples."""
    from svdp.model.autoencoder import TinyAutoencoder
    from svdp.training.checkpoint import LAST
    from svdp.training.data.store import SamplePool
    from svdp.training.fewstep import train

    model = TinyAutoencoder.load(autoencoder)
    capacity = recipe.pool.clips, recipe.pool.photos
    samples = SamplePool(renderers, capacity, recipe.samples, model, options.device)
    start = ""
    for number, stage in enumerate(recipe.stages, 1):
        folder = options.out / f"stage{number}"
        if not (folder / "done").is_file():
            config = replace(stage, start=stage.start or start, device=options.device)
            train(config, model, samples, heldout, folder, resume=(folder / LAST).is_file())
            (folder / "done").touch()
        start = str(folder / "weights")
        model.load_state_dict(TinyAutoencoder.load(last_autoencoder(options, number)).state_dict())


def last_autoencoder(options: argparse.Namespace, stages: int) -> Path:
    """The autoencoder after so many stages: the last one whose decoder was trained, or the one before them all."""
    found = [options.out / "pack" / START, options.out / "autoencoder" / "autoencoder.safetensors"]
    found += [options.out / f"stage{n}" / "weights" / "autoencoder.safetensors" for n in range(1, stages + 1)]
    return [path for path in found if path.is_file()][-1]


# --- bundle and evaluate ----------------------------------------------------------------------------------------------


def bundle(recipe: Recipe, options: argparse.Namespace) -> bool:
    """The three files in the folders in which the package and ComfyUI look for them."""
    from svdp.training.bundle import bundle as write

    last = len(recipe.stages)
    weights, autoencoder = options.out / f"stage{last}" / "weights", last_autoencoder(options, last)
    written = write(
        weights, autoencoder, options.out / "assets", recipe.name, recipe.sampling, with_base=not recipe.base
    )
    for path in written:
        folder = options.out / "assets" / {"base": "base", "adapter": "svdp"}.get(path.stem.rpartition("_")[2], "vae")
        folder.mkdir(exist_ok=True)
        log.info("%s", path.replace(folder / path.name))
    return True


def evaluate(recipe: Recipe, options: argparse.Namespace) -> bool:
    """`svdp evaluate` of the bundled files."""
    if not recipe.pairs or options.media is None:
        log.info("not evaluated: name [[pair]]s in the recipe's `pairs`, and their folder with --media")
        return False
    from svdp.cli.app import run

    assets = options.out / "assets"
    command = ["evaluate", recipe.pairs, "--media", str(options.media), "--out", str(options.out / "evaluation")]
    for name, folder in (("base", "base"), ("adapter", "svdp"), ("autoencoder", "vae")):
        own = str(assets / folder / f"{recipe.name}_{name}.safetensors")
        command += [f"--{name}", recipe.base if name == "base" and recipe.base else own]
    with contextlib.suppress(SystemExit):  # it says itself what is wrong
        run([*command, "--overwrite"])
    return (options.out / "evaluation" / "results.json").is_file()


STEPS = {"pack": pack, "train": train, "bundle": bundle, "evaluate": evaluate}


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
