"""A run of `svdp animate`: what is shown of it, and what is left when it fails."""

from __future__ import annotations

import time

from rich.markup import escape

from ..animation.config import AnimateConfig
from ..animation.output import OutputFile
from ..animation.stages import Animation
from ..errors import UserError
from .app import console
from .interrupt import Interrupted, StopRequest
from .progress import Screen


def run(cfg: AnimateConfig) -> int:
    """Animate as `cfg` says; returns the exit code. Raises UserError, with nothing under the output's name then."""
    began = time.monotonic()
    output = OutputFile(cfg.output, overwrite=cfg.overwrite, inputs=(cfg.source, cfg.driving))
    try:
        with StopRequest() as stop, Screen(console) as screen:
            frames = Animation(cfg, output, screen, stop).run()
    except Interrupted as interrupted:
        console.print(f"[yellow]{interrupted}:[/] {escape(output.settle())}", soft_wrap=True)
        return interrupted.exit_code
    except UserError as error:
        if not output.started:
            raise
        raise type(error)(f"{error}; {output.settle()}") from error
    print(cfg.output)
    if cfg.contact_sheet and output.sheet.exists():
        print(output.sheet)
    console.print(f"[green]{frames} frames in {time.monotonic() - began:.1f} s[/]", soft_wrap=True)
    return 0
