"""Weights from files that anyone may have written: names, shapes, types and values are checked before they are used.

Only safetensors is read, which holds no programs. Every fault is one line that names the file and the tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UserError
from .checks import read_json, shortened

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_PLAIN_NAME = re.compile(r"[^/\\:\0]+")
MAX_TEXT = 16 * 2**20  # bytes of a settings file


class Shaped(Protocol):
    """What checks need of a tensor, or of its entry in a header."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype | str: ...


@dataclass(frozen=True)
class Entry:
    """A tensor as a file's header has it; a type that weights cannot have stays a name."""

    shape: tuple[int, ...]
    dtype: torch.dtype | str
    file: Path


@dataclass(frozen=True)
class WeightFile:
    """The header of one safetensors file, or of several that together hold a model.

    `what` names it in messages. `read` gives the tensors; `entries` tells all that can be known before.
    """

    what: str
    path: Path
    entries: Mapping[str, Entry]
    header: Mapping[str, str] = field(default_factory=dict)
    error: type[UserError] = UserError

    @classmethod
    def open(cls, path: Path | str, what: str, error: type[UserError] = UserError) -> WeightFile:
        """Read the header of a safetensors file. Raises `error` if it is missing, damaged, or no such file."""
        entries, header = _header(Path(path), what, error)
        return cls(what, Path(path), entries, header, error)

    @classmethod
    def open_folder(cls, folder: Path, what: str) -> WeightFile:
        """Read the headers of a diffusers folder: one file, or the parts that its index names.

        Raises `UserError` if a part is missing or damaged, or if the folder holds no safetensors.
        """
        entries: dict[str, Entry] = {}
        for path in _parts(folder, what):
            entries |= _header(path, what, UserError)[0]
        return cls(what, folder, entries)

    def read(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The named tensors, all by default, on the CPU and as they are in the file."""
        wanted: dict[Path, list[str]] = {}
        for name in self.entries if names is None else names:
            wanted.setdefault(self.entries[name].file, []).append(name)
        tensors: dict[str, Tensor] = {}
        for path, own in wanted.items():
            try:
                with safe_open(str(path), "pt") as file:
                    tensors |= {name: file.get_tensor(name) for name in own}
            except (SafetensorError, OSError) as error:
                raise self.error(_damaged(self.what, path, error)) from error
        return tensors


def check_tensors(
    where: str,
    expected: Mapping[str, Shaped],
    found: Mapping[str, Shaped],
    error: type[UserError] = UserError,
    hint: str = "",
) -> None:
    """Raise `error` naming the first tensors that are missing, unknown, of another shape, or not of floating point."""
    problems = [f"{k} is missing" for k in sorted(expected.keys() - found.keys())]
    for name in sorted(expected.keys() & found.keys()):
        have, want = tuple(found[name].shape), tuple(expected[name].shape)
        if have != want:
            problems.append(f"{name} is {have}, expected {want}")
        elif not is_float(found[name]):
            kind = str(found[name].dtype).removeprefix("torch.")
            problems.append(f"{name} is {kind}, expected float16, bfloat16 or float32")
    problems += [f"{shortened(k, plain=True)} is unknown" for k in sorted(found.keys() - expected.keys())]
    if problems:
        more = f", and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise error(f"{where}: {'; '.join(problems[:4])}{more}{hint}")


def is_float(tensor: Shaped) -> bool:
    """Whether weights may be of this type."""
    return tensor.dtype in _TYPES.values()


def cast_weights(
    where: str, tensors: Mapping[str, Tensor], dtype: torch.dtype, error: type[UserError] = UserError
) -> dict[str, Tensor]:
    """The weights in `dtype`. Raises `error` naming a tensor that is not finite, or whose numbers do not fit."""
    cast: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        cast[name] = tensor.to(dtype)
        if is_finite(cast[name]):
            continue
        if is_finite(tensor):
            kind = str(dtype).removeprefix("torch.")
            raise error(f"{where}: {name} has numbers that {kind} cannot hold: use bfloat16 or float32")
        raise error(f"{where}: {name} has numbers that are not finite: get the file again")
    return cast


def is_finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no infinity, in one pass and without a mask as large as the tensor."""
    if not tensor.numel():
        return True
    if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        tensor = tensor.bfloat16()
    return bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def read_settings(path: Path, what: str) -> dict[str, object]:
    """A JSON object from a settings file of a model folder. Raises `UserError` naming it if it is anything else."""
    where = f"{what} {path}"
    try:
        if path.stat().st_size > MAX_TEXT:
            raise UserError(f"{where} is larger than settings can be: get the folder again")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not text in UTF-8: get the folder again") from error
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror})") from error
    return read_json(text, where)


def _header(path: Path, what: str, error: type[UserError]) -> tuple[dict[str, Entry], dict[str, str]]:
    if not path.exists():
        raise error(f"{what} {path} does not exist: check the path")
    if path.is_dir():
        raise error(f"{what} {path} is a folder: give a safetensors file")
    if not path.is_file():
        raise error(f"{what} {path} is no ordinary file: give a safetensors file")
    try:
        with safe_open(str(path), "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            entries = {
                name: Entry(tuple(part.get_shape()), _TYPES.get(kind := str(part.get_dtype()), kind), path)
                for name, part in parts.items()
            }
            return entries, dict(file.metadata() or {})
    except (SafetensorError, OSError) as problem:
        raise error(_damaged(what, path, problem)) from problem


def _damaged(what: str, path: Path, error: Exception) -> str:
    return f"{what} {path} is damaged or not safetensors ({shortened(str(error), plain=True)}): get it again"


def _parts(folder: Path, what: str) -> list[Path]:
    """The safetensors files of a folder that belong together."""
    whole = folder / "diffusion_pytorch_model.safetensors"
    if whole.exists():
        return [whole]
    index = next(iter(sorted(folder.glob("*.safetensors.index*.json"))), None)
    if index is not None:
        return _indexed(index, what)
    variants = sorted(folder.glob("diffusion_pytorch_model.*.safetensors"))
    if len(variants) == 1:
        return variants
    if variants:
        raise UserError(f"{what} {folder} holds {len(variants)} sets of weights: give one of them as a single file")
    if list(folder.glob("*.bin")) or list(folder.glob("*.pt*")):
        raise UserError(f"{what} {folder} holds pickled weights only, which may run programs: get its safetensors")
    raise UserError(f"{what} {folder} holds no safetensors: the download is not complete")


def _indexed(index: Path, what: str) -> list[Path]:
    table = read_settings(index, f"{what}'s index")
    names = table.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{what}'s index {index} weight_map must be a table of file names: get the folder again")
    parts = sorted({name for name in names.values() if isinstance(name, str)})
    bad = [n for n in names.values() if not isinstance(n, str) or not _PLAIN_NAME.fullmatch(n) or n in (".", "..")]
    if bad:
        raise UserError(f"{what}'s index {index} weight_map names {shortened(bad[0])}, which is no file name in it")
    missing = [n for n in parts if not (index.parent / n).is_file()]
    if missing:
        raise UserError(f"{what} {index.parent} lacks {', '.join(missing[:3])}: the download is not complete")
    return [index.parent / n for n in parts]
