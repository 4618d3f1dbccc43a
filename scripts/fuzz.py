"""Hostile files, settings and command lines by the thousand: each is read, or refused in one line.

    python scripts/fuzz.py                          # 3,000 cases, a table of counts
    python scripts/fuzz.py --cases 200 --seed 7 --only video

A case is a function of (kind, seed, number): something good made anew, damaged, and given to the code that a user's
file or command line meets. It is at fault if anything but a `UserError` comes out, if it takes over 60 s, if the
process grows by over 1 GiB, or if a file changes or appears that is none of its own. Cases run in a process of their
own, which is replaced when it hangs or dies. The exit code is 1 if any case is at fault; each is named with its seed
and number.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np
import typer
from hostile import media, parameters, settings, weights
from hostile.case import RESULT, Generator, written
from svdp.errors import UserError

SECONDS, GROWTH = 60, 1 << 30  # what a case may take
PRECIOUS = "precious.mp4", b"a file of the user's"
GENERATORS: list[Generator] = [
    *media.GENERATORS,
    *weights.GENERATORS,
    *settings.GENERATORS,
    *parameters.GENERATORS,
]


def run_case(generator: Generator, seed: int, number: int) -> str:
    """ "read", "refused", or what was wrong, in words."""
    rng = np.random.default_rng([seed, number])
    with tempfile.TemporaryDirectory() as name, _inside(Path(name)):
        folder = Path(name)
        written(folder / PRECIOUS[0], PRECIOUS[1])
        made = generator.make(rng, folder)
        before, files = resident(), _contents(folder)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                generator.read(made)
            outcome = "read"
        except UserError as error:
            outcome = "refused" if str(error).strip() else "an error without words"
        except Exception:  # noqa: BLE001  # that is what is looked for
            outcome = traceback.format_exc().strip()
        touched = _contents(folder).items() ^ files.items()
        foreign = sorted({str(path) for path, _ in touched if not path.parts[0].lstrip(".").startswith(RESULT)})
        if foreign:
            outcome = f"files that it had no business with were changed: {foreign}"
        if resident() - before > GROWTH:
            outcome = f"memory grew by {(resident() - before) >> 20} MiB"
        if outcome not in ("read", "refused") and isinstance(made, list):
            outcome = f"{made}: {outcome}"
    return outcome


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """With the folder as the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _contents(folder: Path) -> dict[Path, bytes]:
    """A digest of every file under a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).digest() for path in files}


def resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def work(line: Connection) -> None:
    """In the child: answer (generator, seed, number) with an outcome, until told None."""
    av.logging.set_level(av.logging.PANIC)
    while (case := line.recv()) is not None:
        place, seed, number = case
        line.send(run_case(GENERATORS[place], seed, number))


class Worker:
    """A child process that is replaced when it hangs or dies."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, there = context.Pipe()
        self._process = context.Process(target=work, args=(there,), daemon=True)
        self._process.start()
        there.close()

    def run(self, place: int, seed: int, number: int) -> str:
        """The outcome of a case."""
        self._line.send((place, seed, number))
        try:
            if self._line.poll(SECONDS):
                return self._line.recv()
            outcome = f"no end within {SECONDS} s"
        except EOFError:
            outcome = "the process died"
        self._process.kill()
        self._process.join()
        self._start()
        return outcome

    def stop(self) -> None:
        """End the child."""
        self._line.send(None)
        self._process.join()


def main() -> None:
    """Run the cases and print the counts."""
    options = _parse()
    chosen = [place for place, g in enumerate(GENERATORS) if options.only in g.name]
    counts: dict[str, Counter[str]] = {GENERATORS[place].name: Counter() for place in chosen}
    faults = 0
    worker = Worker()
    for number in range(options.cases):
        place = chosen[number % len(chosen)]
        outcome = worker.run(place, options.seed, number)
        known = outcome in ("read", "refused")
        counts[GENERATORS[place].name][outcome if known else "at fault"] += 1
        if not known:
            faults += 1
            typer.echo(f"case {number} of seed {options.seed} ({GENERATORS[place].name}): {outcome}\n")
    worker.stop()
    typer.echo(f"{'kind':<18}{'cases':>8}{'read':>8}{'refused':>9}{'at fault':>10}")
    for name, count in counts.items():
        typer.echo(f"{name:<18}{count.total():>8}{count['read']:>8}{count['refused']:>9}{count['at fault']:>10}")
    raise SystemExit(1 if faults else 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    return parser.parse_args()


if __name__ == "__main__":
    main()
