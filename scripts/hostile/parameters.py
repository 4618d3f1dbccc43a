"""Parameters: command lines of `svdp` with odd values and odd names, in this process or in one of their own."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import svdp
import typer.main
from hostile.case import RESULT, Generator
from hostile.weights import sound
from svdp.cli.app import build_app, run
from svdp.errors import UserError

EXAMPLES = Path(svdp.__file__).parent / "assets" / "examples"
NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "1e9",
    "999999999999",
    "nan",
    "inf",
    "-inf",
    "1e-300",
    "0.5",
    "",
    "x",
    "1,5",
    "0x10",
    "\u0663",
)
TEXTS = (
    "", "a", "-", "--", "auto", "cpu", "meta", "cuda:99", "mps", "float16", "float32", "eyes", "eyes,eyes", "eyes,x",
    ",", "relative", "largest", "7", "-1", "99999", "smile=0.3", "smile=nan", "yaw*1e300", "head@0", "head@999",
    "smile=", "=1", "smile=0.3,smile=1", "x" * 3000, "\xe9\U0001f600", "a\nb", "%s%n", "[red]", "euler",
    "dpmpp_2m", "faithful", "fast",
)  # fmt: skip
NAMES = ("", ".", "..", "/", "-", "gone", "gone/a.mp4", "source.jpg", "driving.mp4", "notes.txt", "folder",
         "a\0b", "http:x.mp4", "http://127.0.0.1:9/a.mp4", "concat:a|b", "pipe:0", "/dev/null", "~", "x" * 300,
         "\udcff.mp4")  # fmt: skip
RESULTS = (
    "result.mp4", "result", "result.", "result.txt", "result:a.mp4", "result b.mp4", "result%03d.mp4", "result\n.mp4",
    "result\udcff.mp4", "result" + "x" * 260 + ".mp4", "result\xe9\U0001f600.mp4", "result/a/b.mp4", "result.MP4",
    "result[red].mp4",
    "result.png", "result.jpg", "result.mkv", "result.sheet.png",
)  # fmt: skip
WRITES = ("--output", "--save-motion", "--out")  # options that name what may be written
JOBS = '[[job]]\nsource = "source.jpg"\ndriving = "driving.mp4"\nmax_frames = 1\nsteps = 1\n'
SECONDS = 60


def make_line(rng: np.random.Generator, folder: Path) -> list[str]:
    """The words of a command that would do, with one to three options of any value."""
    for name in ("source.jpg", "driving.mp4"):
        shutil.copyfile(EXAMPLES / name, folder / name)
    (folder / "notes.txt").write_text("notes")
    (folder / "folder").mkdir()
    (folder / "a.toml").write_text(
        '[[job]]\nsource = "source.jpg"\ndriving = "driving.mp4"\nmax_frames = 1\nsteps = 1\n'
    )
    model = str(sound())
    output = str(rng.choice(RESULTS)) if rng.random() < 0.4 else "result.mp4"
    media = ["--source", "source.jpg", "--driving", "driving.mp4", "--output", output]
    short = ["--max-frames", "1", "--steps", "1", "--resolution", "64"]
    lines = {
        "animate": ["animate", *media, *short, "--weights", model],
        "draft": ["animate", *media, "--draft", "--max-frames", "1"],
        "batch": ["batch", "a.toml", "--out", "result", "--weights", model],
        "edit": ["edit", *media[:2], "--output", "result.png" if output == "result.mp4" else output],
        "live": ["live", *media[:2], "--input", "driving.mp4", "--output", output, "--max-frames", "2"],
        "evaluate": ["evaluate", "a.toml", "--out", "result", "--weights", model],
        "train": ["train", "a.toml", "--out", "result"],
        "build": ["data", "build", "a.toml", "result"],
        "pack": ["data", "pack", "a.toml", "result"],
        "inspect": ["data", "inspect", "folder"],
        "bundle": ["bundle", model, "result", "--autoencoder", f"{model}/autoencoder.safetensors"],
    }
    shares = np.array([6, 3, 1, 3, 1, 1, 1, 1, 1, 1, 2], float)
    words = lines[str(rng.choice(list(lines), p=shares / shares.sum()))]
    options = _options(words)
    for place in rng.permutation(len(options))[: int(rng.integers(1, 4))]:
        words += _option(rng, options[place])
    if rng.random() < 0.1:
        words[int(rng.integers(len(words)))] = str(rng.choice(NAMES))
    return words


def _option(rng: np.random.Generator, option: Any) -> list[str]:
    name = str(rng.choice([*option.opts, *option.secondary_opts]))
    if option.is_flag:
        return [name]
    kind = str(getattr(option, "type_descriptor", option.type if hasattr(option, "type") else "")).lower()
    if name in WRITES or "-o" in option.opts:
        values = RESULTS if rng.random() < 0.8 else NAMES[:12]
    elif "path" in kind:
        values = NAMES
    else:
        values = TEXTS if ("str" in kind or "text" in kind) and rng.random() < 0.8 else NUMBERS
    value = str(rng.choice(values))
    return [f"{name}={value}"] if name.startswith("--") and rng.random() < 0.5 else [name, value]


def _options(words: list[str]) -> list[Any]:
    """The options of the command that a line begins with."""
    group: Any = typer.main.get_command(build_app())
    for word in words:
        if not hasattr(group, "commands"):
            break
        group = group.commands[word]
    return [p for p in group.params if p.param_type_name == "option" and p.name not in ("input", "device")]


def run_here(words: list[str]) -> None:
    """In this process. Raises UserError with what was said if the command refused; passes on what should not come."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            run(words)
        except SystemExit as ended:
            _judge(int(ended.code or 0), said.getvalue())


def run_alone(words: list[str]) -> None:
    """As a command of its own: a process whose memory and time count, and what it prints."""
    known = [w.replace("\0", "?").encode("utf-8", "surrogateescape") for w in words]  # no process can be told a NUL
    process = subprocess.Popen(
        [sys.executable, "-m", "svdp.cli", *known],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = process.communicate(timeout=SECONDS - 5)
    finally:
        process.kill()
        process.wait()
    _judge(process.returncode, said.decode("utf-8", "replace"))


def _judge(code: int, said: str) -> None:
    if "Traceback" in said or code not in (0, 1, 2):
        raise AssertionError(f"exit code {code}: {said[-3000:]}")
    if code:
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        usage = "Usage:" in said or " Error " in said  # typer's own frame around what it says of an option
        assert code == 1 or usage or len(errors) == 1, f"not one line: {said}"
        raise UserError(said.strip())


GENERATORS = [
    Generator("parameters", make_line, run_here),
    Generator("whole commands", make_line, run_alone),
]
__all__ = ["GENERATORS", "RESULT"]
