"""Which version this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Version of the installed distribution, or "unknown" when run from files that are not installed."""
    try:
        return version("video-driven-portraits")
    except PackageNotFoundError:
        return "unknown"
