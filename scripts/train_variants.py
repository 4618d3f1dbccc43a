"""Train variants of the few-step model side by side, and say what each of its parts is worth.

    python scripts/make_bundled.py configs/bundled.toml runs/bundled --until pack
    python scripts/train_variants.py configs/bundled.toml configs/ablation/bundled.toml runs/bundled --steps 500

All variants take a step in turn, from the same random weights and with the same draws from the same rendered samples;
the autoencoder stays as it is. So they have the same budget, whatever the machine does. In
OUT/variants are written, as Markdown and with every sample's values as JSON:

- the variants at the end: mean PSNR inside eyes, nose and mouth and outside on held-out samples, and what is lost
  against the first variant, sample by sample, with 95 % intervals;
- each in 1, 2, 4 and 8 steps of sampling;
- the learning curve of the first variant.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if __name__ != "__mp_main__":  # processes that render need none of it
    import numpy as np
    import torch
    from conditions import interval
    from make_bundled import START, open_split
    from svdp.errors import UserError
    from svdp.model.autoencoder import TinyAutoencoder
    from svdp.model.checks import build
    from svdp.training.data.renderers import Renderers, draw_heldout, fit_world
    from svdp.training.data.store import SampleBatch, SamplePool, heldout_batches
    from svdp.training.fewstep import FewStepTrainer
    from svdp.training.fewstep_config import FewStepConfig
    from svdp.training.recipe import Recipe, load_recipe
    from svdp.training.tables import read_toml
    from svdp.training.validation import decode, detail, sample
    from torch import Tensor

log = logging.getLogger("svdp.train_variants")

STEPS = (1, 2, 4, 8)  # of sampling
USUAL = 2
CURVE = 8  # points of the learning curve
ROUND_OF_DRAWS = 100_000  # seeds of the rounds start here

Scores = list[list[float]]  # of each sample: PSNR inside, PSNR outside, detail inside as a share of the truth's


def main() -> None:
    """Render, train in turn, measure, write."""
    options = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    torch.set_float32_matmul_precision("high")
    recipe = load_recipe(options.recipe)
    variants = load_variants(recipe, options)
    worlds = {split: fit_world(open_split(recipe, options, split), options.workers) for split in ("train", "heldout")}
    heldout = draw_heldout(worlds["heldout"], options.heldout, options.workers)
    with Renderers(worlds["train"], options.workers, seed=1) as renderers:
        autoencoder = TinyAutoencoder.load(options.autoencoder or options.out / "pack" / START)
        capacity = recipe.pool.clips, recipe.pool.photos
        samples = SamplePool(renderers, capacity, recipe.samples, autoencoder, options.device)
        batches = heldout_batches(heldout, 8, autoencoder, options.device)
        out = options.out / "variants"
        trainers = {name: FewStepTrainer(config, autoencoder, samples, [], out) for name, config in variants.items()}
        samples.wait(options.wait, options.wait)
        result = Result(batches, autoencoder)
        train(trainers, result, options)
        result.add_steps(trainers)
    out.mkdir(parents=True, exist_ok=True)
    settings = {name: asdict(config) for name, config in variants.items()}
    (out / "variants.json").write_text(json.dumps({**result.values, "settings": settings}, indent=1, default=str))
    (out / "variants.md").write_text(result.tables())
    log.info("written: %s\n%s", out, result.tables())


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path, help="TOML file like configs/bundled.toml")
    parser.add_argument("variants", type=Path, help="TOML file like configs/ablation/bundled.toml")
    parser.add_argument("out", type=Path, help="folder in which make_bundled.py wrote pack/")
    parser.add_argument("--steps", type=int, default=500, help="updates of each variant")
    parser.add_argument("--minutes", type=float, default=1e9, help="of all variants together; what comes first ends")
    parser.add_argument("--device", default="cpu", help="that trains: cpu, cuda, ...")
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    parser.add_argument("--autoencoder", type=Path, help="weights; default: what the recipe starts from")
    parser.add_argument("--heldout", type=int, default=48, help="held-out photos; a sixth as many rendered and clips")
    parser.add_argument("--wait", type=int, default=64, help="samples of each kind to be there before training starts")
    return parser.parse_args()


def load_variants(recipe: Recipe, options: argparse.Namespace) -> dict[str, FewStepConfig]:
    """The recipe's first stage with the settings of each variant. Raises `UserError` that names a wrong one."""
    table = read_toml(options.variants)
    stage = asdict(recipe.stages[0]) | {"device": options.device, "steps": options.steps, "minutes": options.minutes}
    found = {}
    for variant in table.get("variant", []):
        changes = {**table.get("all", {}), **variant}
        name, adapter = changes.pop("name"), {**stage["adapter"], **changes.pop("adapter", {})}
        config = build(FewStepConfig, {**stage, **changes, "adapter": adapter}, f"{options.variants}: {name}")
        found[name] = replace(config, decoder_lr=0.0)
    if len(found) < 2:
        raise UserError(f"{options.variants} needs at least two [[variant]]s with different names")
    return found


def train(trainers: dict[str, FewStepTrainer], result: Result, options: argparse.Namespace) -> None:
    """Steps in turn, until the budget is spent; the learning curve of the first."""
    first = next(iter(trainers.values()))
    started, due = time.monotonic(), 0.0
    while first.share < 1:
        spent = (time.monotonic() - started) / 60
        for trainer in trainers.values():
            trainer.progress.seconds = 60 * spent
        if first.share >= due:
            result.add_point(first, spent)
            due += 1 / CURVE
        first.samples.take(32)
        number = first.progress.step
        for trainer in trainers.values():
            torch.manual_seed(ROUND_OF_DRAWS * (1 + trainer.config.seed) + number)
            trainer.step()
        if number % 25 == 0:
            losses = {name: round(trainer.means.take().get("loss", 0.0), 4) for name, trainer in trainers.items()}
            log.info("%d, %.1f min, %d samples: %s", number, spent, first.arrived, json.dumps(losses))
    result.add_point(first, (time.monotonic() - started) / 60)


class Result:
    """Values of every held-out sample, by what they were measured for."""

    def __init__(self, batches: list[tuple[str, SampleBatch]], autoencoder: TinyAutoencoder) -> None:
        self.batches, self.autoencoder = batches, autoencoder
        self.noise = [torch.randn(b.target.shape, generator=torch.Generator().manual_seed(7)) for _, b in batches]
        self.kinds = [kind for kind, batch in batches for _ in range(len(batch.source))]
        self.values: dict[str, Any] = {"kinds": self.kinds, "curve": [], "variants": {}}
        drafts = {"draft": [b.posed_pixels[:, :, :3] for _, b in batches]}
        drafts["draft through the autoencoder"] = [self._decoded(b.posed) for _, b in batches]
        self.values["drafts"] = {name: self._score(pictures) for name, pictures in drafts.items()}

    def add_point(self, trainer: FewStepTrainer, minutes: float) -> None:
        """One point of the learning curve; minutes are of all variants together."""
        scores = self.measure(trainer, USUAL)
        point = {"step": trainer.progress.step, "minutes": minutes, "samples": trainer.arrived, "scores": scores}
        self.values["curve"].append(point)
        log.info("step %d: %s", point["step"], np.mean(scores, 0).round(3).tolist())

    def add_steps(self, trainers: dict[str, FewStepTrainer]) -> None:
        """Every variant at the end, in few and many steps of sampling."""
        for name, trainer in trainers.items():
            self.values["variants"][name] = {str(steps): self.measure(trainer, steps) for steps in STEPS}

    def measure(self, trainer: FewStepTrainer, steps: int) -> Scores:
        """Scores of the averaged weights."""
        driver, made = trainer.config.drop_driver < 1, []
        with torch.no_grad(), trainer.ema.applied():
            for (_, batch), noise in zip(self.batches, self.noise, strict=True):
                noise = noise.to(batch.target.device)
                made.append(self._decoded(sample(trainer.denoiser, batch, noise, steps, driver)))
        return self._score(made)

    def _decoded(self, latents: Tensor) -> Tensor:
        with torch.no_grad():
            return decode(self.autoencoder, latents).unflatten(0, latents.shape[:2])

    def _score(self, made: list[Tensor]) -> Scores:
        scores: Scores = []
        for (_, batch), pictures in zip(self.batches, made, strict=True):
            truth, mask = batch.target_pixels.float() / 255, batch.driving_pixels[:, :, 3:]
            for own, true, inside in zip(pictures.float(), truth, mask, strict=True):
                error = (own - true).square()
                share = float(detail(own, inside) / detail(true, inside).clamp(min=1e-6))
                scores.append([_psnr(error, inside), _psnr(error, 1 - inside), share])
        return scores

    def tables(self) -> str:
        """Markdown: variants, steps of sampling, learning curve."""
        first = next(iter(self.values["variants"].values()))[str(USUAL)]
        rows = {**{n: v[str(USUAL)] for n, v in self.values["variants"].items()}, **self.values["drafts"]}
        steps = self.values["curve"][-1]["step"]
        lines = [f"{steps} steps each, {len(self.kinds)} held-out samples, {USUAL} steps of sampling.", ""]
        lines += ["| | PSNR inside | lost | PSNR outside | lost | detail inside |", "|---|---:|---:|---:|---:|---:|"]
        for name, scores in rows.items():
            own, lost = np.array(scores), np.array(first) - np.array(scores)
            cells = [f"{own[:, 0].mean():.2f}", _interval(lost[:, 0]), f"{own[:, 1].mean():.2f}", _interval(lost[:, 1])]
            lines.append("| " + " | ".join([name, *cells, f"{np.median(own[:, 2]):.2f}"]) + " |")
        lines += [
            "",
            f"| PSNR inside in steps of sampling | {' | '.join(map(str, STEPS))} |",
            "|---|" + "---:|" * len(STEPS),
        ]
        for name, by_steps in self.values["variants"].items():
            cells = [f"{np.mean(by_steps[str(n)], 0)[0]:.2f}" for n in STEPS]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines += ["", "| steps of training | samples rendered | PSNR inside | PSNR outside |", "|---:|---:|---:|---:|"]
        for point in self.values["curve"]:
            own = np.array(point["scores"])
            lines.append(f"| {point['step']} | {point['samples']} | {_interval(own[:, 0])} | {_interval(own[:, 1])} |")
        return "\n".join([*lines, ""])


def _psnr(error: Tensor, where: Tensor) -> float:
    """Of squared errors (T, 3, H, W) where (T, 1, H, W) says."""
    mean = float((error * where).sum() / (3 * where.sum()).clamp(min=1))
    return -10 * float(np.log10(mean + 1e-9))


def _interval(values: np.ndarray) -> str:
    """Mean and its 95 % interval over samples, as text."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*interval(values))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
