"""Files of the user's: what is at a path that is to be read, and writing that never lands on something else."""

from __future__ import annotations

import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from ..errors import MediaError

MEDIA_ERRORS = (FFmpegError, OSError, UnicodeError)  # what PyAV raises over damaged files and broken disks

_KINDS = (
    (stat.S_ISDIR, "is a folder: give a file in it"),
    (stat.S_ISFIFO, "is a pipe, and it must be read more than once: save it to a file first"),
    (stat.S_ISSOCK, "is a socket: give a file"),
    (stat.S_ISCHR, "is a device or standard input, and it must be read more than once: give a file"),
    (stat.S_ISBLK, "is a device: give a file"),
)


def open_input(path: Path, what: str) -> io.BufferedReader:
    """A local file for reading; `what` ("video", "picture") names it in messages.

    Names are never taken for protocols. Raises MediaError: not there, not to be read, a folder, a pipe, a device.
    """
    if str(path) == "-":
        raise MediaError(f"{what} {path}: standard input must be read more than once, so save it to a file first")
    try:
        mode = path.stat().st_mode
        file = path.open("rb") if stat.S_ISREG(mode) else None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(f"{what} {path} does not exist: check the path") from error
    except OSError as error:
        raise MediaError(f"{what} {path} cannot be read ({error.strerror}): check the path and your rights") from error
    except ValueError as error:  # a name with a null byte
        raise MediaError(f"{what} {str(path)!r} is no file name: check the path") from error
    if file is None:
        is_what = next((words for kind, words in _KINDS if kind(mode)), "is no ordinary file: give a file")
        raise MediaError(f"{what} {path} {is_what}")
    return file


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """PyAV's container of a local file. Opens this file alone, whatever it names. Raises MediaError or FFmpegError."""
    with open_input(path, "video") as raw:  # a playlist, or a description of a stream, opens nothing else
        file = _Tolerant(raw)
        with av.open(file, options={"protocol_whitelist": "none"}, metadata_errors="replace") as container:
            yield container


class _Tolerant:
    """A file as FFmpeg expects one: a damaged index that points out of it is an answer, no exception."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.name, self.read, self.tell, self._file = os.fspath(file.name), file.read, file.tell, file

    def seek(self, offset: int, whence: int = 0) -> int:
        """The new position, or -1."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1


class WholeFile(io.FileIO):
    """A file for writing in which `write` writes everything or raises OSError, unbuffered."""

    def write(self, data: Any) -> int:
        """Write all of `data`; its number of bytes."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += super().write(view[done:]) or 0
        return done

    def sync(self) -> None:
        """Bring what was written to the disk, so that a power cut leaves it."""
        if stat.S_ISREG(os.fstat(self.fileno()).st_mode):
            os.fsync(self.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is complete, or as it was before. Raises OSError."""
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
    try:
        with WholeFile(part, "xb") as file:
            file.write(data)
            file.sync()
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
