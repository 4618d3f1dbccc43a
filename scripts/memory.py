"""Peak memory, and time for a frame, of `svdp animate` for a long driving clip against a short one.

    python scripts/memory.py                          # 150 and 600 frames, the bundled model and example
    python scripts/memory.py --frames 50 200 --steps 1
    python scripts/memory.py --frames 200 2000 --draft # the 3D head alone

Every length runs in a process of its own, so that one run's peak cannot hide behind the other's. The clips are the
example's frames over and over. The C library is told to give large blocks back when they are freed: so peaks say
what was held, without fragmentation. The last line has the ratios, long over short: near 1 if memory and the
processor's time for a frame do not grow with length. What a run spends before its first frame is in its time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from time import process_time

import numpy as np
import typer
from svdp.signals.video import Timing, VideoReader, VideoWriter

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"
MEGABYTE = 2**20


def main() -> None:
    """Measure and print."""
    options = parse()
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(MEGABYTE))  # read when the processes start
    short, long = (in_own_process(frames, options) for frames in sorted(options.frames))
    for run in (short, long):
        typer.echo(
            f"{run.frames} frames written: peak {run.peak / MEGABYTE:.0f} MiB, "
            f"{1000 * run.seconds / run.frames:.0f} ms of the processor a frame"
        )
    more = (long.seconds - short.seconds) / max(long.frames - short.frames, 1)
    typer.echo(f"each frame more: {1000 * more:.0f} ms of the processor")
    typer.echo(f"ratio of peaks: {long.peak / short.peak:.3f}")


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, nargs=2, default=[150, 600], help="the two lengths")
    parser.add_argument("--steps", type=int, default=2, help="sampling steps; memory does not depend on them")
    parser.add_argument("--source", type=Path, default=EXAMPLES / "source.jpg")
    parser.add_argument("--driving", type=Path, default=EXAMPLES / "driving.mp4", help="clip to repeat")
    parser.add_argument("--weights", type=Path, help="as of svdp animate; default: the bundled model")
    parser.add_argument("--draft", action="store_true", help="the portrait's 3D head alone, as of svdp animate")
    return parser.parse_args()


@dataclass(frozen=True)
class Usage:
    """What animating a clip took."""

    peak: int  # bytes
    seconds: float  # of the processor, all threads
    frames: int  # that were written


def in_own_process(frames: int, options: argparse.Namespace) -> Usage:
    """Animate so many frames in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        driving, output = Path(folder) / "driving.mp4", Path(folder) / "out.mp4"
        repeat_clip(options.driving, driving, frames)
        files = ["--source", options.source, "--driving", driving, "--output", output]
        weights = ["--weights", options.weights] if options.weights else []
        how = ["--draft"] if options.draft else ["--steps", options.steps]
        arguments = ["animate", *files, *weights, *how]
        context = multiprocessing.get_context("spawn")
        answers = context.SimpleQueue()
        child = context.Process(target=animate_and_report, args=([str(a) for a in arguments], answers))
        child.start()
        child.join()
        if child.exitcode != 0:
            raise SystemExit(f"animating {frames} frames failed with exit code {child.exitcode}")
        peak, seconds = answers.get()
        return Usage(peak, seconds, VideoReader(output).num_frames)


def animate_and_report(arguments: list[str], answers: SimpleQueue[tuple[int, float]]) -> None:
    """In the child: run the command line, then tell this process's peak and the processor's seconds."""
    from svdp.cli.app import run

    with redirect_stdout(sys.stderr):  # the command prints the files it made; here stdout is for the numbers
        try:
            run(arguments)
        except SystemExit as end:
            if end.code:
                raise
    answers.put((peak_bytes(), process_time()))


def peak_bytes() -> int:
    """Largest resident memory of this process so far.

    Linux: VmHWM, which starts afresh with the program; ru_maxrss would count the parent's memory at the fork.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def repeat_clip(clip: Path, path: Path, frames: int) -> None:
    """Write so many frames of a clip, over and over, at 25 frames a second."""
    reader = VideoReader(clip)
    timing = Timing(
        num_frames=frames,
        fps=Fraction(25),
        constant=True,
        begin=Fraction(0),
        ticks=tuple(range(frames)),
        time_base=Fraction(1, 25),
    )
    with VideoWriter(path, (reader.info.height, reader.info.width), timing) as writer:
        for frame in islice(repeated(reader), frames):
            writer.write(frame)


def repeated(reader: VideoReader) -> Iterator[np.ndarray]:
    """The clip's frames without end."""
    while True:
        yield from reader


if __name__ == "__main__":
    main()
