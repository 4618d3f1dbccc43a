"""Settings checked by type and range before anything is made of them, whoever wrote them: a file, a caller, a shell."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ..errors import UserError

T = TypeVar("T")
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class Within:
    """Bounds of a number, both allowed. Stands in a field's type: `steps: Annotated[int, Within(1, 1000)]`."""

    least: float
    most: float

    def hold(self, value: Any) -> bool:
        """Whether `value` lies between them; NaN does not."""
        return bool(self.least <= value <= self.most)

    def __str__(self) -> str:
        return f"from {self.least:g} to {self.most:g}"


def check_fields(settings: Any) -> None:
    """Raise `UserError` naming the first field of a dataclass that is not of its declared type or range.

    For `__post_init__`. Numbers of other libraries pass as numbers; types beyond numbers, texts and choices are not
    looked at.
    """
    for name, kind in _hints(type(settings)).items():
        _check(kind, getattr(settings, name), name)


def build(cls: type[T], table: Any, where: str) -> T:
    """A settings dataclass from a table of TOML or JSON. Lists become tuples, tables become dataclasses.

    Raises `UserError` that begins with `where` and names the key: unknown, missing, of another type, out of range.
    """
    if not isinstance(table, dict):
        raise UserError(f"{where} must be a table, got {shortened(table)}")
    own = fields(cls)  # type: ignore[arg-type]
    unknown = sorted(set(table) - {f.name for f in own})
    if unknown:
        raise UserError(
            f"{where}: unknown setting {', '.join(map(_plain, unknown[:5]))}; known: {', '.join(f.name for f in own)}"
        )
    needed = [f.name for f in own if f.default is MISSING and f.default_factory is MISSING and f.name not in table]
    if needed:
        raise UserError(f"{where}: {', '.join(needed)} is missing")
    values = convert(cls, table, where)
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def convert(cls: type, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a table as the types that a dataclass declares for these keys. Raises `UserError` as `build`."""
    kinds = _hints(cls)
    return {key: _convert(kinds[key], value, f"{where} {key}") for key, value in table.items()}


def read_json(text: str, where: str) -> dict[str, Any]:
    """A JSON object. Raises `UserError` that begins with `where` if the text is anything else."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, a number of thousands of digits, or nested without end
        raise UserError(f"{where} is not JSON ({shortened(str(error), plain=True)})") from error
    if not isinstance(table, dict):
        raise UserError(f"{where} must be a table, got {shortened(table)}")
    return table


def shortened(value: Any, plain: bool = False) -> str:
    """A value as one short line, for a message."""
    try:
        text = str(value) if plain else repr(value)
    except ValueError:  # a number of more digits than Python writes
        text = "a number of very many digits"
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _bare(kind: Any) -> tuple[Any, Within | None]:
    """A declared type without its bounds, and the bounds."""
    if get_origin(kind) is not Annotated:
        return kind, None
    inner, *extras = get_args(kind)
    return inner, next((e for e in extras if isinstance(e, Within)), None)


def _optional(kind: Any) -> tuple[Any, bool]:
    """X of `X | None`, and whether None is allowed."""
    options = get_args(kind)
    if get_origin(kind) in (Literal, Annotated) or type(None) not in options:
        return kind, False
    return next(k for k in options if k is not type(None)), True


def _check(kind: Any, value: Any, name: str) -> None:
    kind, none_allowed = _optional(kind)
    if value is None and none_allowed:
        return
    kind, bounds = _bare(kind)
    if get_origin(kind) is Literal:
        _check_choice(get_args(kind), value, name)
    elif get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            raise UserError(f"{name} must be a list, got {shortened(value)}")
        for part in value:
            _check(get_args(kind)[0], part, name)
    elif kind is bool or kind is str:
        if not isinstance(value, kind):
            raise UserError(f"{name} must be {_NAMES[kind]}, got {shortened(value)}")
    elif kind is int or kind is float:
        _check_number(kind, value, name, bounds)


def _check_number(kind: Any, value: Any, name: str, bounds: Within | None) -> None:
    if isinstance(value, bool) or not isinstance(value, (Integral if kind is int else Real)):
        raise UserError(f"{name} must be {_NAMES[kind]}, got {shortened(value)}")
    if bounds is not None and not bounds.hold(value):
        raise UserError(f"{name} must be {_NAMES[kind]} {bounds}, got {shortened(value)}")
    if kind is float and not _is_finite(value):
        raise UserError(f"{name} must be a finite number, got {shortened(value)}")


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def _check_choice(options: tuple[Any, ...], value: Any, name: str) -> None:
    if not any(type(value) is type(o) and value == o for o in options):
        raise UserError(f"{name} must be one of {', '.join(map(repr, options))}, got {shortened(value)}")


def _convert(kind: Any, value: Any, where: str) -> Any:
    """A value of TOML or JSON as the type that a field declares."""
    kind, none_allowed = _optional(kind)
    if value is None:
        if none_allowed:
            return None
        raise UserError(f"{where} must be given, got null")
    inner, _ = _bare(kind)
    if is_dataclass(inner):
        return build(inner, value, where)  # type: ignore[arg-type]
    if get_origin(inner) is tuple:
        return _convert_tuple(get_args(inner), value, where)
    _check(kind, value, where)
    return float(value) if inner is float else value


def _convert_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} must be a list, got {shortened(value)}")
    if Ellipsis not in kinds and len(value) != len(kinds):
        raise UserError(f"{where} must have {len(kinds)} values, got {len(value)}")
    return tuple(_convert(kinds[0], v, where) for v in value)


def _plain(name: Any) -> str:
    return shortened(name, plain=True)
