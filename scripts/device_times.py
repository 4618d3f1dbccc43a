"""Time of a posed model's parts on a device: encode the posed source, sample by preset, decode.

    python scripts/device_times.py configs/bundled.toml --device cuda --resolution 256 512
    python scripts/device_times.py configs/sd35m-posed.toml --device cuda --preset balanced faithful

Weights and pictures are random, which changes no time. A segment with history is timed after two to warm up. Following
the face, drawing the posed source and the video files are not included: they are work of the processor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import typer
from svdp.model.adapter import Adapter
from svdp.model.autoencoder import FACTOR, LATENT_CHANNELS, TinyAutoencoder
from svdp.model.backends.diffusers import Denoiser, build_transformer
from svdp.model.config import PRESETS, SamplingConfig, by_preset
from svdp.model.sampling import SegmentSignals, generate
from svdp.model.segments import SegmentConfig, plan_segments
from svdp.training.recipe import Recipe, load_recipe
from torch import Tensor

GIB = 2**30
COLUMNS = "model", "px", "preset", "device", "encode", "sample", "decode", "frames/s", "peak GiB"


def main() -> None:
    """Time, print a table. Milliseconds are of a frame."""
    options = parse()
    typer.echo(f"| {' | '.join(COLUMNS)} |\n|---|---:|---|---|{'---:|' * 5}")
    for path in options.recipes:
        recipe = load_recipe(path)
        model = Parts(recipe, torch.device(options.device))
        for side in options.resolution or [recipe.adapter.resolution]:
            for preset in options.preset:
                times = model.measure(side, by_preset(recipe.sampling, preset))
                cells = [f"{1000 * t:.1f} ms" for t in times.parts] + [f"{1 / sum(times.parts):.1f}", times.peak]
                typer.echo("| " + " | ".join([recipe.name, str(side), preset, model.name, *cells]) + " |")


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", type=Path, nargs="+", help="TOML files like configs/bundled.toml")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--resolution", type=int, nargs="*", help="pixels; by default as trained")
    parser.add_argument("--preset", nargs="*", default=["balanced"], choices=PRESETS)
    return parser.parse_intermixed_args()


@dataclass(frozen=True)
class Times:
    """Seconds a frame to encode, sample and decode; peak memory as text."""

    parts: tuple[float, float, float]
    peak: str


class Parts:
    """A recipe's model with random weights, in bfloat16."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.adapter, self.device = replace(recipe.adapter, gate="open"), device
        torch.manual_seed(0)
        with device:
            self.denoiser = Denoiser(build_transformer(self.adapter.base), Adapter(self.adapter))
            self.autoencoder = TinyAutoencoder().to(torch.bfloat16)
        self.denoiser.bfloat16().requires_grad_(False).train(False)
        cuda = device.type == "cuda"
        self.name = torch.cuda.get_device_name(device) if cuda else f"{device}, {torch.get_num_threads()} threads"

    @torch.no_grad()
    def measure(self, side: int, config: SamplingConfig) -> Times:
        """Times of the last of three segments: the second is the first with history."""
        frames, small = self.adapter.segment_length, side // FACTOR
        pictures = torch.rand(frames, 3, side, side, device=self.device)
        latents = torch.randn(frames, LATENT_CHANNELS, small, small, device=self.device)
        pixels = torch.cat([pictures, torch.ones_like(pictures[:, :1])], 1)
        regions = torch.ones(frames, len(self.adapter.regions), small, small, device=self.device)
        signals = SegmentSignals(masks=regions, driving_pixels=pixels, posed_pixels=pixels, posed=latents)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        half = pictures.to(torch.bfloat16)
        encode = self._timed(lambda: self.autoencoder.encode(half))
        decode = self._timed(lambda: self.autoencoder.decode(latents.to(torch.bfloat16)))
        segments = SegmentConfig(length=frames, num_history=self.adapter.num_history)
        plan = plan_segments(3 * frames, segments)
        made = generate(
            self.denoiser, latents[0], lambda segment: signals, plan, config, device=self.device, dtype=torch.bfloat16
        )
        next(made), next(made)
        sample = self._once(lambda: next(made))
        cuda = self.device.type == "cuda"
        peak = f"{torch.cuda.max_memory_allocated(self.device) / GIB:.2f}" if cuda else "-"
        return Times((encode / frames, sample / frames, decode / frames), peak)

    def _timed(self, work: Callable[[], Tensor]) -> float:
        work()
        return self._once(work)

    def _once(self, work: Callable[[], object]) -> float:
        self._wait()
        started = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


if __name__ == "__main__":
    main()
