"""What a run keeps while it goes on, so that `--resume` makes the rest as if it had never stopped."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MediaError
from ..signals.files import write_whole
from .config import AnimateConfig
from .media import Media
from .version import installed_version

if TYPE_CHECKING:
    from .pipeline import LoadedModel

_NOT_IN_SETTINGS = ("source", "driving", "output", "weights", "overwrite", "resume", "force", "contact_sheet")
_NOT_IN_SETTINGS += ("motion_file", "save_motion")
_SAMPLE = 1 << 20  # bytes at either end of a weights file that tell it from others


@dataclass(frozen=True)
class Checkpoint:
    """A frame from which a run can go on.

    video: the unfinished file; its whole parts reach `start` or beyond. settings: what the result depends on, by name.
    history (H, C, h, w) float32: latents of the frames before `start`, None in a draft. sheet: pictures of the contact
    sheet so far, by row and frame.
    """

    video: str
    settings: dict[str, str]
    start: int
    history: np.ndarray | None = None
    sheet: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it whole or not at all. Raises MediaError."""
        arrays = {f"sheet/{row}/{n}": picture for row, some in self.sheet.items() for n, picture in some.items()}
        if self.history is not None:
            arrays["history"] = self.history
        about = json.dumps({"video": self.video, "settings": self.settings, "start": self.start})
        data = io.BytesIO()
        np.savez(data, about=np.array(about), **arrays)  # pyright: ignore[reportArgumentType]
        try:
            write_whole(path, data.getvalue())
        except OSError as error:
            raise MediaError(f"cannot write {path} ({error.strerror}): free some space, and add --resume") from error

    @staticmethod
    def load(path: Path) -> Checkpoint | None:
        """What `save` wrote; None if there is no such file. Raises MediaError if it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                about = json.loads(str(stored["about"]))
                sheet: dict[str, dict[int, np.ndarray]] = {}
                for name in (n for n in stored.files if n.startswith("sheet/")):
                    _, row, number = name.split("/")
                    sheet.setdefault(row, {})[int(number)] = stored[name]
                history = stored["history"] if "history" in stored.files else None
                return Checkpoint(str(about["video"]), dict(about["settings"]), int(about["start"]), history, sheet)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
            raise MediaError(f"{path} is damaged: begin anew with --overwrite") from error

    def differences(self, settings: dict[str, str]) -> list[str]:
        """Names of the settings that are not the same."""
        return sorted(k for k in {*settings, *self.settings} if settings.get(k) != self.settings.get(k))


def settings_of(cfg: AnimateConfig, media: Media, loaded: LoadedModel | None) -> dict[str, str]:
    """All that the frames depend on, as text by name: media and weights by their contents, settings by value.

    loaded: the model, if it is in memory already. Raises MediaError.
    """
    found = {key: repr(value) for key, value in asdict(cfg).items() if key not in _NOT_IN_SETTINGS}
    weights = cfg.weights
    if loaded is not None:
        weights = loaded.weights
        found |= {"strength": repr(loaded.denoiser.strength), "device": str(loaded.device), "dtype": str(loaded.dtype)}
    try:
        found["source"] = _digest(cfg.source) if media.source is None else _digest_arrays([media.source])
        if media.driving is None:
            found["driving"] = _digest(cfg.driving)
        else:
            found["driving"] = f"{_digest_arrays(media.driving)} {media.fps}"
        if cfg.motion_file is not None:
            found["motion_file"] = _digest(cfg.motion_file)
        if not cfg.draft:
            found |= {name: _sampled(path) for name, path in asdict(weights).items()}
    except OSError as error:
        raise MediaError(f"{error.filename} cannot be read ({error.strerror}): check the path") from error
    return {**found, "version": installed_version()}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_SAMPLE):
            digest.update(chunk)
    return digest.hexdigest()


def _digest_arrays(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _sampled(path: Path) -> str:
    """Sizes, beginnings and ends of a file, or of all files in a folder: weights are too large to be read twice."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        size = file.stat().st_size
        with file.open("rb") as opened:
            digest.update(f"{file.name} {size}".encode(errors="surrogateescape") + opened.read(_SAMPLE))
            opened.seek(max(0, size - _SAMPLE))
            digest.update(opened.read(_SAMPLE))
    return digest.hexdigest()
