"""TOML files: reading, building on another file (`extends`), and turning tables into frozen settings."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ..errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a table, put over the file that its key `extends` names (relative to its own folder), if any.

    Tables are merged key by key; everything else, arrays of tables too, replaces what is there. Raises `UserError` if
    a file is missing, is not TOML, or extends itself.
    """
    return _read(Path(path), ())


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"no such configuration: {path}" + (f", which {above[-1]} extends" if above else ""))
    if path.resolve() in [p.resolve() for p in above]:
        raise UserError(f"{path} extends itself, by way of {' and '.join(p.name for p in above)}: remove one `extends`")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path and your rights") from error
    other = table.pop("extends", None)
    if other is None:
        return table
    if not isinstance(other, str):
        raise UserError(f"{path}: extends must be the name of a TOML file, got {other!r}")
    return merged(_read(path.parent / other, (*above, path)), table)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` put over `below`: tables key by key, everything else replaced."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def table_at(table: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """The table under a key, empty if there is none. Raises `UserError` if something else is there."""
    found = table.get(key, {})
    if not isinstance(found, dict):
        raise UserError(f"{where}: {key} must be a table, [{key}], got {found!r}")
    return found


def tables_at(table: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """The list of tables under a key, empty if there is none. Raises `UserError` if something else is there."""
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(f"{where}: {key} must be a list of tables, [[{key}]], got {found!r}")
    return found


def convert(cls: type, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a table as the types that the dataclass declares. Raises `UserError` that names the setting."""
    kinds = get_type_hints(cls)
    return {key: _convert(kinds[key], value, f"{where} {key}") for key, value in table.items()}


def build(cls: type[T], table: Any, where: str) -> T:
    """A settings dataclass from a TOML table; unknown and missing keys raise `UserError` that names them."""
    if not isinstance(table, dict):
        raise UserError(f"{where} must be a table, got {table!r}")
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise UserError(f"{where}: unknown setting {', '.join(unknown)}; known: {', '.join(known)}")
    values = convert(cls, table, where)
    try:
        return cls(**values)
    except TypeError as error:  # a field without default is missing
        raise UserError(f"{where}: {str(error).split('__init__() ')[-1]}") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    """A TOML (or JSON) value as the type that a field declares; tables become dataclasses."""
    options = [k for k in get_args(kind) if k is not type(None)]
    if get_origin(kind) is not Literal and type(None) in get_args(kind):
        if value is None:
            return None
        kind = options[0]  # X | None
    if is_dataclass(kind):
        return build(kind, value, where)  # type: ignore[arg-type]
    if get_origin(kind) is Literal and value not in options:
        raise UserError(f"{where} must be one of {', '.join(map(repr, options))}, got {value!r}")
    if get_origin(kind) is tuple:
        return _convert_tuple(get_args(kind), value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, str, bool) and type(value) is not kind:
        raise UserError(f"{where} must be a {kind.__name__}, got {value!r}")
    return value


def _convert_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} must be a list, got {value!r}")
    if Ellipsis not in kinds and len(value) != len(kinds):
        raise UserError(f"{where} must have {len(kinds)} values, got {len(value)}")
    return tuple(_convert(kinds[0], v, where) for v in value)
