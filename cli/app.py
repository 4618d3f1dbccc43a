"""The command line: one module per command, each parses its options, builds a config and calls a layer.

A command module has `register(app)` and imports nothing heavy at its top, so that `svdp --help` is instant.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from ..animation.version import installed_version
from ..errors import UserError

COMMANDS = ("animate", "batch", "edit", "live", "evaluate", "train")  # modules here, in the order of the help page
EXIT_USER_ERROR = 2

console = Console(stderr=True, highlight=False)


def build_app() -> typer.Typer:
    """The `svdp` command with everything that is registered."""
    app = typer.Typer(
        name="svdp",
        help="Stable Video-Driven Portraits: animate a portrait with a driving video.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in COMMANDS:
        import_module(f".{name}", __package__).register(app)
    return app


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    0: done; 1: jobs of a list failed; 2: the user's input is at fault; 130 or 143: interrupted.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_LogLine()], force=True)
    try:
        build_app()(arguments)
    except UserError as error:
        _fail(str(error))
    except (MemoryError, ImportError, OSError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        _fail("there is not enough memory: lower --resolution, --segment-length or --max-side, or raise its limit")


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out: of Python, of torch, of the system, or when a library was to be loaded."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    signs = (
        "failed to map segment",
        "cannot allocate memory",
        "can't allocate memory",
        "not enough memory",
        "bad_alloc",
    )
    return any(sign in str(error).lower() for sign in signs)


def _fail(words: str) -> NoReturn:
    console.print(f"error: {' '.join(words.split())}", style="red", markup=False, soft_wrap=True)
    raise SystemExit(EXIT_USER_ERROR) from None


def print_path(path: Path) -> None:
    """A path as one line on standard output, byte for byte, whatever its name."""
    try:
        print(path)
    except UnicodeEncodeError:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")


def _options(
    show_version: bool = typer.Option(
        False, "--version", is_eager=True, help="Print the version and exit.", callback=lambda on: _print_version(on)
    ),
) -> None:
    del show_version


def _print_version(on: bool) -> None:
    if on:
        print(f"svdp {installed_version()}")
        raise typer.Exit


class _LogLine(logging.Handler):
    """Warnings of the layers as lines above the progress bar; other people's libraries only from errors on."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("svdp") or record.levelno >= logging.ERROR:
            word = record.levelname.lower()
            console.print(f"[yellow]{word}:[/] {escape(record.getMessage())}", soft_wrap=True)
