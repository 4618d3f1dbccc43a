"""A run of `svdp animate`: what is shown of it, and what is left when it fails."""

from __future__ import annotations

from rich.markup import escape

from ..animation.api import output_of
from ..animation.api import run as animate
from ..animation.config import AnimateConfig
from ..animation.media import Media
from .app import console, print_path
from .interrupt import Interrupted, StopRequest
from .progress import Screen


def run(cfg: AnimateConfig) -> int:
    """Animate as `cfg` says; returns the exit code. Raises UserError, with nothing under the output's name then."""
    output = output_of(cfg, Media())
    try:
        with StopRequest() as stop, Screen(console) as screen:
            result = animate(cfg, output, screen, stop)
    except Interrupted as interrupted:
        console.print(f"[yellow]{interrupted}:[/] {escape(interrupted.kept)}", soft_wrap=True)
        return interrupted.exit_code
    print_path(cfg.output)
    if result.sheet is not None:
        print_path(result.sheet)
    console.print(f"[green]{result.num_frames} frames in {result.seconds:.1f} s[/]", soft_wrap=True)
    return 0
