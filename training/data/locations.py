"""Where shards lie: folders of this machine, or any location that fsspec can list (s3://bucket/data and others)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ...errors import UserError

Location = str | Path  # a URL if it has "://" in it


def is_remote(location: Location) -> bool:
    """Whether a location is a URL; `Path` never is."""
    return isinstance(location, str) and "://" in location


def find_files(root: Location, patterns: Sequence[str]) -> list[Location]:
    """Files that match any of the patterns below `root`, sorted. Raises `UserError` if the location cannot be read."""
    if not is_remote(root):
        return sorted({p for pattern in patterns for p in Path(root).glob(pattern)})
    system, base = _file_system(str(root))
    try:
        found = {name for pattern in patterns for name in system.glob(f"{base.rstrip('/')}/{pattern}")}
    except OSError as error:
        raise UserError(f"{root} cannot be listed ({error}): check the address and the credentials") from error
    return [system.unstrip_protocol(name) for name in sorted(found)]


def open_file(location: Location) -> IO[bytes]:
    """A readable, seekable file; remote ones are read whole. Raises OSError, or `UserError` for a URL of no use."""
    if not is_remote(location):
        return Path(location).open("rb")
    system, path = _file_system(str(location))
    return io.BytesIO(system.cat_file(path))


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # optional

        return url_to_fs(url)
    except ImportError as error:
        raise UserError(
            f"{url} needs a library that is not installed ({error}): pip install 'video-driven-portraits[stream]'"
        ) from error
    except ValueError as error:
        raise UserError(f"{url} is not an address that fsspec knows ({error})") from error
