"""The output file: written under a partial name, renamed when it is whole, kept as far as it got when it is not."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import MediaError, UserError
from ..signals.video import VideoReader

ENDINGS = (".mp4", ".m4v", ".mov")


class OutputFile:
    """`OUT.mp4`, written as `OUT.partial.mp4`.

    Checked at once, before any work: ending, not one of the inputs, not there yet (unless `overwrite`), writable.
    Raises UserError or MediaError.
    """

    def __init__(self, path: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
        self.path = path
        self.started = False  # to be set when this run begins to write the partial file
        self.partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        self.sheet = path.with_name(f"{path.stem}.sheet.png")
        if path.suffix.lower() not in ENDINGS:
            raise UserError(f"output {path} must end in one of {', '.join(ENDINGS)}")
        if any(path.resolve() == other.resolve() for other in inputs):
            raise UserError(f"output {path} is also an input: choose another name with -o")
        if path.is_dir():
            raise UserError(f"output {path} is a folder: give a file name, such as {path / 'out.mp4'}")
        if path.exists() and not overwrite:
            raise UserError(f"output {path} exists already: choose another name, or add --overwrite")
        self._check_writable()

    def commit(self) -> None:
        """Give the finished file its name."""
        os.replace(self.partial, self.path)

    def settle(self) -> str:
        """After a run that did not finish: what is left, in words. A partial file without frames is removed."""
        try:
            frames = VideoReader(self.partial).num_frames if self.started else 0
        except MediaError:
            self.partial.unlink(missing_ok=True)
            frames = 0
        return f"the first {frames} frames are kept in {self.partial}" if frames else "nothing was written"

    def _check_writable(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            there = self.partial.exists()
            with self.partial.open("ab"):
                pass
            if not there:
                self.partial.unlink()
        except OSError as error:
            raise MediaError(
                f"cannot write {self.path} ({error.strerror}): choose a folder that you may write to with -o"
            ) from error
