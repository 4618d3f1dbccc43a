"""TOML files: reading, and building on another file (`extends`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..model.checks import shortened

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: save it as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
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
        raise UserError(f"{where}: {key} must be a table, [{key}], got {shortened(found)}")
    return found


def tables_at(table: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """The list of tables under a key, empty if there is none. Raises `UserError` if something else is there."""
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(f"{where}: {key} must be a list of tables, [[{key}]], got {shortened(found)}")
    return found
