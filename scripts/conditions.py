"""What a posed model makes of each of its conditions, on held-out photos and clips of a pack.

    python scripts/conditions.py PACK assets --out runs/conditions

Every held-out sample is made with all conditions, with one of them left out, and with one of them taken from another
sample (condition-swap gap); in 1, 2, 4 and 8 steps; and without the copy gate. Printed is the mean PSNR against the
true picture inside eyes, nose and mouth and outside. Beside it is the loss against all conditions in 2 steps, sample by
sample, with 95 % intervals. `--out` receives pictures: true, posed source, result, and the map of the copy gate, white
where the posed source is passed on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
import typer
from svdp.heads.landmarks import TABLE
from svdp.model.adapter import load_adapter
from svdp.model.autoencoder import TinyAutoencoder
from svdp.model.backends.diffusers import Denoiser, load_transformer
from svdp.model.fusion import FusionConfig
from svdp.model.sampling import SamplingConfig, SegmentSignals, generate
from svdp.model.segments import SegmentConfig, plan_segments
from svdp.training.data.posed import (
    PosedDataConfig,
    PosedSample,
    World,
    fit_face_twice,
    make_sample,
    open_head,
    open_world,
)
from torch import Tensor

EVEN = FusionConfig(source=1.0, driving=1.0, history=1.0)
STEPS = (1, 2, 4, 8)
DRAWS = 2000


def main() -> None:
    """Draw the samples, make them in every way, print the table."""
    options = parse()
    model = Model(options.weights)
    samples = draw(options)
    results = {name: [make(model, samples, n) for n in range(len(samples))] for name, make in ways().items()}
    scores = {
        name: np.array([score(s, made) for s, made in zip(samples, rows, strict=True)])
        for name, rows in results.items()
    }
    print_table(scores)
    if options.out:
        write(options.out, model, samples, results, scores)


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pack", type=Path, help="folder of `svdp data pack`, with the two head models beside it")
    parser.add_argument("weights", type=Path, help="folder with base, adapter and autoencoder")
    parser.add_argument("--photos", type=int, default=40, help="held-out photos (inverse pairs)")
    parser.add_argument("--rendered", type=int, default=8, help="held-out rendered people")
    parser.add_argument("--out", type=Path, help="folder for pictures and the table as JSON")
    return parser.parse_args()


def draw(options: argparse.Namespace) -> list[PosedSample]:
    """The same samples of the held-out people each time."""
    config = PosedDataConfig(frames=8)
    target = open_head(options.pack / "target_head.npz", TABLE, config)
    table = options.pack / "posing_table.npz"
    posing = open_head(options.pack / "posing_head.npz", table if table.is_file() else TABLE, config)
    world: World = open_world(options.pack, target, posing, config, "heldout")
    world = replace(world, faces=[f for f in (fit_face_twice(face, world) for face in world.faces) if f is not None])
    found = [make_sample(np.random.default_rng(900 + n), world, "photo") for n in range(options.photos)]
    return found + [make_sample(np.random.default_rng(900 + n), world, "rendered") for n in range(options.rendered)]


class Model:
    """Base, adapter and autoencoder of a folder, in float32 on the CPU."""

    def __init__(self, folder: Path) -> None:
        base, adapter, autoencoder = (
            sorted(folder.rglob(f"*{part}.safetensors"))[0] for part in ("base", "adapter", "autoencoder")
        )
        self.denoiser = Denoiser(load_transformer(base), load_adapter(adapter).adapter).requires_grad_(False)
        self.autoencoder = TinyAutoencoder.load(autoencoder)
        self.copy_head = self.denoiser.adapter.copy_head

    @torch.no_grad()
    def __call__(
        self, source: np.ndarray, driver: np.ndarray, posed: np.ndarray | None, steps: int, start: float = 1.0
    ) -> np.ndarray:
        """(T, S, S, 3) uint8 from a source (S, S, 3), a masked driver and a posed source (T, S, S, 4)."""
        encode = self.autoencoder.encode
        pixels = picture(driver)
        masks = torch.nn.functional.max_pool2d(pixels[:, 3:], 8).expand(-1, 3, -1, -1)
        own = None if posed is None else picture(posed)
        latents = None if own is None else encode(own[:, :3])
        signals = SegmentSignals(masks=masks, driving_pixels=pixels, posed_pixels=own, posed=latents)
        config = SamplingConfig(steps=steps, fusion=EVEN, start=start)
        plan = plan_segments(
            len(driver), SegmentConfig(length=self.denoiser.adapter.config.segment_length, num_history=0)
        )
        part = lambda t, s: None if t is None else t[s.start : s.stop]  # noqa: E731
        cut = lambda s: SegmentSignals(*(part(getattr(signals, k), s) for k in signals.__dataclass_fields__))  # noqa: E731
        made = generate(self.denoiser, encode(picture(source[None]))[0], cut, plan, config)
        found = torch.cat([self.autoencoder.decode(result.latents.float()) for result in made])
        return (found.permute(0, 2, 3, 1) * 255).round().byte().numpy()

    def copy_map(self, sample: PosedSample) -> np.ndarray:
        """(S, S) uint8: how far the posed source is passed on in the first frame, mean over channels."""
        assert self.copy_head is not None
        kept: list[Tensor] = []
        runner = BlockRunnerWatch(kept)
        with runner:
            self(sample.source, sample.driver[:1], sample.posed[:1], 1)
        small = kept[0][0].mean(0).numpy()
        return cv2.resize((255 * small).astype(np.uint8), sample.source.shape[:2], interpolation=cv2.INTER_NEAREST)


class BlockRunnerWatch:
    """Within it, the copy gate's maps are kept."""

    def __init__(self, kept: list[Tensor]) -> None:
        from svdp.model.streams import BlockRunner

        self.kept, self.owner, self.own = kept, BlockRunner, BlockRunner.copy_mask

    def __enter__(self) -> None:
        def watched(runner, x: Tensor) -> Tensor | None:  # type: ignore[no-untyped-def]
            mask = self.own(runner, x)
            if mask is not None:
                self.kept.append(mask)
            return mask

        self.owner.copy_mask = watched  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        self.owner.copy_mask = self.own  # type: ignore[method-assign]


Way = Callable[[Model, Sequence[PosedSample], int], np.ndarray]


def ways() -> dict[str, Way]:
    """How results are made, by name."""

    def steps(count: int, start: float = 1.0) -> Way:
        return lambda model, all_, n: model(all_[n].source, all_[n].driver, all_[n].posed, count, start)

    def other(all_: Sequence[PosedSample], n: int) -> PosedSample:
        same = [m for m in range(len(all_)) if all_[m].kind == all_[n].kind]
        return all_[same[(same.index(n) + 1) % len(same)]]

    def ungated(model: Model, all_: Sequence[PosedSample], n: int) -> np.ndarray:
        from svdp.model.streams import BlockRunner

        own = BlockRunner.copy_mask
        BlockRunner.copy_mask = lambda runner, x: None  # type: ignore[method-assign]
        try:
            return model(all_[n].source, all_[n].driver, all_[n].posed, 2)
        finally:
            BlockRunner.copy_mask = own  # type: ignore[method-assign]

    found: dict[str, Way] = {f"{n} step{'s' * (n > 1)}": steps(n) for n in STEPS}
    found["2 steps from level .5"] = steps(2, 0.5)
    found["without driver"] = lambda m, a, n: m(a[n].source, np.zeros_like(a[n].driver), a[n].posed, 2)
    found["driver of another"] = lambda m, a, n: m(a[n].source, other(a, n).driver, a[n].posed, 2)
    found["without posed source"] = lambda m, a, n: m(a[n].source, a[n].driver, None, 2)
    found["posed source of another"] = lambda m, a, n: m(a[n].source, a[n].driver, other(a, n).posed, 2)
    found["source of another"] = lambda m, a, n: m(other(a, n).source, a[n].driver, a[n].posed, 2)
    found["without copy gate"] = ungated
    found["draft"] = lambda m, a, n: a[n].posed[..., :3]
    found["draft through the autoencoder"] = through
    found["source held still"] = lambda m, a, n: np.repeat(a[n].source[None], len(a[n].target), 0)
    return found


def through(model: Model, samples: Sequence[PosedSample], n: int) -> np.ndarray:
    """The posed source encoded and decoded."""
    with torch.no_grad():
        made = model.autoencoder.decode(model.autoencoder.encode(picture(samples[n].posed[..., :3])))
    return (made.permute(0, 2, 3, 1) * 255).round().byte().numpy()


def picture(array: np.ndarray) -> Tensor:
    """(T, S, S, C) uint8 -> (T, C, S, S) in 0..1."""
    return torch.from_numpy(array.astype(np.float32) / 255).permute(0, 3, 1, 2)


def score(sample: PosedSample, made: np.ndarray) -> tuple[float, float, float]:
    """PSNR inside the regions, outside, and detail inside, as a share of the truth's."""
    error = ((made.astype(np.float32) - sample.target) / 255) ** 2
    inside = sample.driver[..., 3:] > 127
    psnr = lambda where: -10 * np.log10(float((error * where).sum() / max(3 * where.sum(), 1)) + 1e-9)  # noqa: E731
    return psnr(inside), psnr(~inside), detail(made, inside) / detail(sample.target, inside)


def detail(pictures: np.ndarray, where: np.ndarray) -> float:
    """Mean absolute difference to the mean of 3 x 3 pixels."""
    grey = pictures.astype(np.float32).mean(-1)
    fine = np.stack([np.abs(g - cv2.blur(g, (3, 3))) for g in grey])
    return float((fine * where[..., 0]).sum() / max(where.sum(), 1)) + 1e-6


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % interval over samples (bootstrap)."""
    rows = np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.percentile(values[rows].mean(1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def print_table(scores: dict[str, np.ndarray]) -> None:
    """One row a way: PSNR in dB and what is lost against two steps with all conditions."""
    typer.echo("| made | PSNR inside | lost | PSNR outside | lost | detail inside |\n|---|---:|---:|---:|---:|---:|")
    full = scores["2 steps"]
    for name, own in scores.items():
        lost = full - own
        cells = [name]
        for column in (0, 1):
            cells += [f"{own[:, column].mean():.1f}", "{:.2f} [{:.2f}, {:.2f}]".format(*interval(lost[:, column]))]
        typer.echo("| " + " | ".join([*cells, f"{np.median(own[:, 2]):.2f}"]) + " |")


def write(
    out: Path,
    model: Model,
    samples: Sequence[PosedSample],
    results: dict[str, list[np.ndarray]],
    scores: dict[str, np.ndarray],
) -> None:
    """The table as JSON and a sheet of eight samples."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "conditions.json").write_text(json.dumps({k: v.tolist() for k, v in scores.items()}), encoding="utf-8")
    columns = []
    for n in np.linspace(0, len(samples) - 1, 8).astype(int):
        gate = cv2.cvtColor(model.copy_map(samples[n]), cv2.COLOR_GRAY2RGB)
        shown = [samples[n].target[0], samples[n].posed[0, ..., :3], results["2 steps"][n][0], gate]
        shown += [results[name][n][0] for name in ("without driver", "without posed source", "without copy gate")]
        columns.append(np.concatenate(shown))
    cv2.imwrite(str(out / "conditions.png"), np.concatenate(columns, 1)[..., ::-1])


if __name__ == "__main__":
    main()
