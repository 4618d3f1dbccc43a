"""The output file: made in a folder of its own beside it, moved when it is whole, kept as far as it got when not."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Cancelled, MediaError, UserError
from ..signals.files import MEDIA_ERRORS, open_container, write_whole
from .kept import Checkpoint
from .lock import FileLock

log = logging.getLogger(__name__)

ENDINGS = (".mp4", ".m4v", ".mov")
_LOCK, _CHECKPOINT, _VIDEO = "lock", "checkpoint.npz", re.compile(r"video\d*\.mp4")
_UNFINISHED = re.compile(r"\.checkpoint\.npz\.[0-9a-f]{8}")


class OutputFile:
    """`OUT.mp4`, made as `OUT.mp4.partial/video.mp4`, and its contact sheet `OUT.sheet.png`.

    Checked at once, before any work: ending; neither file is an input; neither is there yet (unless `overwrite`);
    nothing that an earlier run left would be lost (unless `resume` or `overwrite`); no other run makes the same file;
    writable. `resume` None: runs of this kind cannot go on. Holds a lock until `commit` or `settle`, one of which must
    be called. Raises UserError or MediaError.
    """

    def __init__(
        self,
        path: Path,
        *,
        overwrite: bool = False,
        resume: bool | None = False,
        sheet: bool = True,
        inputs: tuple[Path, ...] = (),
    ) -> None:
        self.path, self.overwrite = path, overwrite
        self._resumable = resume is not None
        self.advice = "; --resume goes on from there" if self._resumable else ""  # after what is kept, in words
        self.started = False  # to be set when this run begins to write
        if not path.name:
            raise UserError(f"output {path} is a folder: give a file name, such as {path / 'out.mp4'}")
        if path.suffix.lower() not in ENDINGS:
            raise UserError(f"output {path} must end in one of {', '.join(ENDINGS)}")
        self.sheet = path.with_name(f"{path.stem}.sheet.png") if sheet else None
        self.folder = path.with_name(f"{path.name}.partial")
        self.checkpoint: Checkpoint | None = None
        self._saved: Checkpoint | None = None
        self._made: list[Path] = []  # folders that are not there yet
        try:
            self._check(inputs)
            self._enter()
        except OSError as error:
            self._leave_folders()
            raise MediaError(
                f"cannot write {path} ({error.strerror}): choose a folder that you may write to with -o"
            ) from error
        try:
            self._look(bool(resume))
        except BaseException:
            self._release()
            raise

    @property
    def kept_video(self) -> Path | None:
        """The unfinished file that the checkpoint is of."""
        return None if self.checkpoint is None else self.folder / self.checkpoint.video

    def check_settings(self, settings: dict[str, str]) -> None:
        """Raise UserError if the checkpoint is of a run with other `settings`."""
        if self.checkpoint is not None and (other := self.checkpoint.differences(settings)):
            raise UserError(
                f"the run that left {self.kept_video} had another {', '.join(other)}: "
                "give the same to go on, or begin anew with --overwrite and without --resume"
            )

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keep it in place of the one before; what an earlier run left is now superseded. Raises MediaError."""
        checkpoint.save(self.folder / _CHECKPOINT)
        self._saved = checkpoint
        self._remove_videos(but=self.video)

    def commit(self) -> None:
        """Give the finished file its name. Raises MediaError if that has been taken meanwhile; the file is kept."""
        try:
            _move(self.video, self.path, replace=self.overwrite)
        except OSError as error:
            words = "has come to be there meanwhile" if error.errno == errno.EEXIST else f"({error.strerror})"
            raise MediaError(f"cannot write {self.path} {words}; the finished video is {self.video}") from error
        self._remove_videos()
        self._release()

    def write_sheet(self, data: bytes) -> None:
        """The contact sheet, a PNG file's bytes. Raises MediaError."""
        assert self.sheet is not None
        part = self.folder.with_name(f".{self.sheet.name[:200]}.{os.getpid()}")
        try:
            write_whole(part, data)
            _move(part, self.sheet, replace=self.overwrite)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise MediaError(f"cannot write {self.sheet} ({error.strerror})") from error

    def settle(self) -> str:
        """After a run that did not finish: what is left, in words. A file without frames is removed."""
        saved = self._saved or self.checkpoint
        best = self.folder / saved.video if saved else self.video
        frames = _count(best)
        if saved is None and frames:
            (self.folder / _CHECKPOINT).unlink(missing_ok=True)  # of an older video
        elif not frames:
            frames, best = self._most()
        if best is not None:
            self._remove_videos(but=best if frames else None)
        self._release()
        return f"the first {frames} frames are kept in {best}{self.advice}" if frames else NOTHING

    def _check(self, inputs: tuple[Path, ...]) -> None:
        for written in (self.path, self.sheet, self.folder):
            if written is not None and any(same_file(written, read) for read in inputs):
                raise UserError(f"output {written} is also an input: choose another name with -o")
        if any(same_file(self.folder, read.parent) for read in inputs):
            raise UserError(f"an input lies in {self.folder}, where the output is made: choose another name with -o")
        if self.path.is_dir():
            raise UserError(f"output {self.path} is a folder: give a file name, such as {self.path / 'out.mp4'}")
        for written in (self.path, self.sheet):
            if written is not None and os.path.lexists(written) and not self.overwrite:
                other = ", or add --no-contact-sheet" if written is self.sheet else ""
                raise UserError(f"output {written} exists already: choose another name, or add --overwrite{other}")

    def _enter(self) -> None:
        """Make the folder and take its lock."""
        missing = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        self._made = missing
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            foreign = [p.name for p in self.folder.iterdir() if not _is_ours(p)]
            if foreign:
                raise UserError(f"{self.folder} holds {foreign[0]}, which is not of this program: move it elsewhere")
            try:
                self._lock = FileLock(self.folder / _LOCK)
                return
            except FileNotFoundError:  # another run has just ended and removed the folder
                continue
            except BlockingIOError as error:
                self._made = []
                raise UserError(
                    f"another run is making {self.path}: wait for it, or choose another name with -o"
                ) from error

    def _look(self, resume: bool) -> None:
        """What an earlier run left."""
        frames, best = self._most()
        if frames and not (resume or self.overwrite):
            raise UserError(
                f"an earlier run stopped after {frames} frames, kept in {best}: "
                + ("go on with --resume, or begin anew" if self._resumable else "move it, or begin anew")
                + " with --overwrite"
            )
        if resume:
            found = Checkpoint.load(self.folder / _CHECKPOINT)
            self.checkpoint = found if found and self.folder / found.video in self._videos() else None
        elif frames:
            log.warning("the %d frames that an earlier run left in %s will be replaced", frames, best)
        names = (f"video{number or ''}.mp4" for number in range(10_000))
        self.video = next(self.folder / name for name in names if not (self.folder / name).exists())

    def _most(self) -> tuple[int, Path | None]:
        """The video here with most frames."""
        return max(((_count(path), path) for path in self._videos()), default=(0, None))

    def _videos(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.mp4") if _VIDEO.fullmatch(path.name))

    def _remove_videos(self, but: Path | None = None) -> None:
        for path in self._videos():
            if path != but:
                path.unlink(missing_ok=True)

    def _release(self) -> None:
        """Leave the lock, and the folder if nothing is in it."""
        if not self._videos():
            for path in self.folder.iterdir():
                if path.name != _LOCK and _is_ours(path):
                    path.unlink(missing_ok=True)
        self._lock.release()
        self._leave_folders()

    def _leave_folders(self) -> None:
        for folder in dict.fromkeys((self.folder, *self._made)):
            try:
                folder.rmdir()
            except OSError:
                return


@contextmanager
def settling(output: OutputFile | None) -> Iterator[None]:
    """Settles the output (None: there is none) of a run that fails: `Cancelled` and UserError say what is left."""
    try:
        yield
    except Cancelled as cancelled:
        if output is not None:
            cancelled.kept = output.settle()
        raise
    except UserError as error:
        left = NOTHING if output is None else output.settle()
        if output is None or not output.started:
            raise
        raise type(error)(f"{error}; {left}") from error
    except MemoryError as error:
        left = NOTHING if output is None else output.settle()
        raise UserError(f"{NO_MEMORY}; {left}") from error
    except BaseException:
        if output is not None:
            output.settle()
        raise


NOTHING = "nothing was written"
NO_MEMORY = "there is not enough memory: lower --resolution, --segment-length or --max-side"


def _count(path: Path) -> int:
    """Frames in a file that this program wrote, which may be unfinished."""
    count = 0
    try:
        with open_container(path) as container:
            for packet in container.demux(video=0):
                count += packet.pts is not None and not packet.is_corrupt
    except (*MEDIA_ERRORS, IndexError, MediaError):
        pass
    return count


def _is_ours(path: Path) -> bool:
    name = path.name
    return name in (_LOCK, _CHECKPOINT) or bool(_VIDEO.fullmatch(name) or _UNFINISHED.fullmatch(name))


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths are one file, by whatever name."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return a.resolve() == b.resolve()


def _move(path: Path, target: Path, *, replace: bool) -> None:
    """Rename within a folder or to its parent; without `replace`, never onto a file that is there. Raises OSError."""
    if replace:
        os.replace(path, target)
    elif os.name == "nt":
        path.rename(target)
    else:
        try:
            os.link(path, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "it exists already", str(target)) from None
            path.rename(target)
        else:
            path.unlink()
