"""ComfyUI backend, finished segments as files: a run that was stopped goes on at the next segment.

A segment is found again by a digest of all that decides it: the model and what other nodes hung on it, the settings,
the noise, and the signals of its own frames and of those before. So a file never stands for another result, and a
longer video begins with the segments of a shorter one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...errors import UserError
from ..segments import Segment

log = logging.getLogger(__name__)

_DEPTH = 6  # of objects within objects that a digest follows
_SAMPLES = 4096  # numbers of a weight of which the file is not known
_PASSING = {"patches_uuid", "parent", "current_patcher"}  # attributes that are new in every run


class SegmentFiles:
    """Segments of one run in a folder, a file each. `run` says what holds for all of them: settings, noise, model."""

    def __init__(self, folder: Path, run: Any) -> None:
        self.folder, self._before = folder, digest(run)

    def paths(self, plan: Sequence[Segment], signals_of: Callable[[Segment], Any]) -> list[Path]:
        """The file of every segment, whether it is there or not."""
        result = []
        for number, segment in enumerate(plan, 1):
            place = (segment.start, segment.stop, segment.num_history)
            self._before = digest((self._before, place, signals_of(segment)))
            result.append(self.folder / f"{number:05d}-{self._before[:20]}.safetensors")
        return result

    def load(self, path: Path) -> Tensor | None:
        """Latents of a finished segment; None if it is not there or cannot be read."""
        if not path.is_file():
            return None
        try:
            return load_file(path)["latents"]
        except (OSError, SafetensorError, KeyError) as error:
            log.warning("%s cannot be read (%s): this segment is made again", path.name, error)
            return None

    def save(self, path: Path, latents: Tensor, segment: Segment) -> None:
        """Write a finished segment whole or not at all. Raises `UserError` where it cannot be written."""
        partial = path.with_suffix(".partial")
        about = {"frames": json.dumps([segment.start, segment.stop])}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"latents": latents.detach().to("cpu").contiguous()}, partial, about)
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            remedy = "free some space, or keep nothing"
            raise UserError(f"cannot keep a segment in {self.folder} ({error}): {remedy}") from error


def digest(value: Any) -> str:
    """A number, as text, that two values share only if they say the same; ids and addresses do not count."""
    into = hashlib.sha256()
    for part in _parts(value, _DEPTH, ()):
        into.update(part)
        into.update(b"\0")
    return into.hexdigest()


def model_parts(patcher: Any) -> dict[str, Any]:
    """What of a MODEL decides its output: its file or weights, patches, options, and the models beside it."""
    return {
        "weights": origin_of(patcher),
        "precision": _precision(patcher),
        "patches": {key: patcher.patches[key] for key in sorted(patcher.patches)},
        "object_patches": patcher.object_patches,
        "options": patcher.model_options,
        "attachments": patcher.attachments,
        "beside": {key: [origin_of(p) for p in ps] for key, ps in patcher.additional_models.items()},
    }


def _precision(patcher: Any) -> list[str]:
    """As the patcher will have it when it is loaded: before its first run the model itself does not know yet."""
    model = patcher.model
    cast = patcher.object_patches.get("manual_cast_dtype", getattr(model, "manual_cast_dtype", None))
    return [str(cast), str(getattr(getattr(model, "diffusion_model", None), "dtype", None))]


def origin_of(patcher: Any) -> Any:
    """What a model in a patcher was made from: name, size and age of files; for other loaders, samples of weights."""
    made = getattr(patcher, "cached_patcher_init", None)
    files = [file_stamp(a) for a in _flat(made[1])] if made else []
    if known := [stamp for stamp in files if stamp is not None]:
        return known
    return {name: _samples(p) for name, p in patcher.model.named_parameters()}


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def file_stamp(value: Any) -> tuple[str, int, int] | None:
    """Name, size in bytes and time of the last change of a file; None if the value names none."""
    if not isinstance(value, (str, Path)) or not os.path.isfile(value):
        return None
    status = os.stat(value)
    return os.path.basename(value), status.st_size, status.st_mtime_ns


def _samples(weight: Tensor) -> tuple[Any, ...]:
    flat = weight.detach().reshape(-1)
    return tuple(weight.shape), flat[:: max(1, len(flat) // _SAMPLES)]


def _parts(value: Any, depth: int, above: tuple[int, ...]) -> Iterable[bytes]:
    """The value as bytes, part by part; `above`: ids of the objects around it."""
    if value is None or isinstance(value, (str, int, float, bool, bytes, torch.dtype, torch.device, Path)):
        yield f"{type(value).__name__}:{value!r}".encode()
    elif isinstance(value, Tensor):
        yield from _tensor_parts(value)
    elif depth <= 0 or id(value) in above:
        yield _kind(value)
    elif isinstance(value, (Mapping, list, tuple, set, frozenset)):
        yield from _collection_parts(value, depth - 1, (*above, id(value)))
    else:
        yield from _object_parts(value, depth - 1, (*above, id(value)))


def _tensor_parts(value: Tensor) -> Iterable[bytes]:
    yield f"tensor:{tuple(value.shape)}:{value.dtype}".encode()
    plain = value.detach().to("cpu").contiguous()
    yield plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def _collection_parts(value: Any, depth: int, above: tuple[int, ...]) -> Iterable[bytes]:
    yield f"{type(value).__name__}:{len(value)}".encode()
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from _parts(value[key], depth, above)
    elif isinstance(value, (set, frozenset)):
        yield from sorted(b"".join(_parts(v, depth, above)) for v in value)
    else:
        for v in value:
            yield from _parts(v, depth, above)


def _object_parts(value: Any, depth: int, above: tuple[int, ...]) -> Iterable[bytes]:
    """A function by its name and what it holds, a module by samples of its weights, another object by its fields."""
    yield _kind(value)
    if isinstance(value, torch.nn.Module):
        yield from _parts([_samples(p) for p in value.parameters()], depth, above)
        return
    if hasattr(value, "cached_patcher_init"):  # a model in a patcher
        yield from _parts(origin_of(value), depth, above)
        return
    if isinstance(value, functools.partial):
        yield from _parts([value.func, value.args, value.keywords], depth, above)
        return
    held = [cell.cell_contents for cell in getattr(value, "__closure__", None) or () if _filled(cell)]
    fields = {k: v for k, v in getattr(value, "__dict__", {}).items() if k not in _PASSING}
    owner = getattr(value, "__self__", None)
    yield from _parts([held, fields, None if owner is None else _kind(owner).decode()], depth, above)


def _kind(value: Any) -> bytes:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', '')}.{named.__qualname__}".encode()


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # not set yet
        return False
