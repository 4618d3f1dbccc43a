"""What sampling takes: memory and operations counted for any size, and time where there is a device to measure it on.

    python scripts/sampling.py configs/mini.toml configs/sd35m.toml             # counted only, no device needed
    python scripts/sampling.py configs/mini.toml --device cpu                    # timed as well
    python scripts/sampling.py configs/sd35m.toml --device cuda --resolution 512 256

One segment with history is sampled by all four branches of the fusion; weights are random and gates open, which changes
neither time nor memory. Counted are the weights, the most that a pass keeps beside them (tensor by tensor; scores of
attention are not kept, as in the kernels of GPUs), and the floating-point operations of a step. Timed are a step (four
passes) and what is computed once per segment. The autoencoder is not included.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
import typer
from svdp.model.backends.diffusers import Denoiser
from svdp.model.fusion import BRANCHES
from svdp.model.streams import Streams
from svdp.training.config import TrainConfig, load_config
from svdp.training.estimate import LiveBytes, attend_by, build, fused_attention, plain_attention, random_conditions
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

GIB, TERA = 2**30, 1e12
COLUMNS = ("model", "px", "frames", "weights GiB", "beside them GiB", "T operations a step")
TIMED = ("device", "s once", "s a step", "peak GiB")


def main() -> None:
    """Count, time, print a table."""
    options = parse()
    typer.echo(f"| {' | '.join(COLUMNS + TIMED)} |\n|---|{'---:|' * 5}---|{'---:|' * 3}")
    for path in options.configs:
        config = load_config(path)
        for side in options.resolution or [config.adapter.resolution]:
            shown = replace(config, adapter=replace(config.adapter, resolution=side, gate="open"))
            typer.echo("| " + " | ".join([path.stem, str(side), *row(shown, options)]) + " |")


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configs", type=Path, nargs="+", help="configurations of trainings, for the form of the model")
    parser.add_argument("--resolution", type=int, nargs="*", help="pixels; by default as trained")
    parser.add_argument("--device", help="cpu, cuda, ...: measure time there; without it nothing is timed")
    parser.add_argument("--steps", type=int, default=2, help="timed steps, after one to warm up")
    return parser.parse_intermixed_args()


@dataclass(frozen=True)
class Count:
    """Bytes of the weights and of the most that is kept beside them; floating-point operations of a step."""

    weights: int
    beside: int
    operations: float


def row(config: TrainConfig, options: argparse.Namespace) -> list[str]:
    """The cells after the name and the resolution."""
    counted = count(config)
    cells = [f"{counted.weights / GIB:.2f}", f"{counted.beside / GIB:.2f}", f"{counted.operations / TERA:.2f}"]
    return [str(config.adapter.segment_length), *cells, *(timed(config, options) if options.device else ["-"] * 4)]


def count(config: TrainConfig) -> Count:
    """What a segment takes, without computing any of it."""
    with torch.device("meta"), torch.no_grad():
        model = build(config).bfloat16().requires_grad_(False)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        attend_by(model, fused_attention)
        with LiveBytes(model) as live:
            run_step(model, *prefilled(model, config))
        attend_by(model, plain_attention)
        streams = prefilled(model, config)
        with FlopCounterMode(display=False) as counter:
            run_step(model, *streams)
    return Count(weights, live.peak, float(counter.get_total_flops()))


def timed(config: TrainConfig, options: argparse.Namespace) -> list[str]:
    """Device, seconds once per segment, seconds a step, peak of the device's memory where it can be told."""
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    with torch.device(device), torch.no_grad():
        model = build(config).bfloat16().requires_grad_(False)
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        marks = [clock(device)]
        streams = prefilled(model, config)
        marks.append(clock(device))
        for _ in range(1 + options.steps):
            run_step(model, *streams)
            marks.append(clock(device))
    name = torch.cuda.get_device_name(device) if cuda else f"{options.device}, {torch.get_num_threads()} threads"
    steps = sorted(b - a for a, b in pairwise(marks[2:]))
    peak = f"{torch.cuda.max_memory_allocated(device) / GIB:.2f}" if cuda else "-"
    return [name, f"{marks[1] - marks[0]:.2g}", f"{steps[len(steps) // 2]:.2g}", peak]


def clock(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def prefilled(model: Denoiser, config: TrainConfig) -> tuple[Streams, Tensor]:
    """The streams of random source, driver and history, and noise to start from."""
    adapter = config.adapter
    size = adapter.resolution // 8

    def latents(*lead: int) -> Tensor:
        return torch.randn(*lead, adapter.base.channels, size, size, dtype=torch.bfloat16)

    frames = adapter.segment_length
    return model.prefill(random_conditions("p", adapter, latents, 1, frames, adapter.num_history)), latents(1, frames)


def run_step(model: Denoiser, streams: Streams, noise: Tensor) -> None:
    """One step: every branch once."""
    sigma = torch.ones(1)
    for branch in BRANCHES:
        if branch != "p" or model.adapter.config.num_history:
            model(noise, sigma, streams=streams, branch=branch)


if __name__ == "__main__":
    main()
