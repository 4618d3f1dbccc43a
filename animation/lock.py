"""A lock between processes that ends with the process, however that ends."""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)


class FileLock:
    """An exclusive lock by way of a file, which is made if need be and removed by `release`.

    Raises BlockingIOError if another process holds it, OSError if the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self._file = path.open("ab")
            try:
                _acquire(self._file)
                if _is_at(self._file, path):
                    return
            except BaseException:
                self._file.close()
                raise
            self._file.close()  # its last owner removed it between opening and locking

    def release(self) -> None:
        """Remove the file and let others in."""
        if os.name == "nt":  # there an open file cannot be removed
            self._file.close()
        self.path.unlink(missing_ok=True)
        self._file.close()


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _acquire(file: BinaryIO) -> None:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(str(error)) from error
    else:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            log.warning("%s: this file system has no locks; keep two runs from one output yourself", file.name)
