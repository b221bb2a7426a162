"""What a recipe names that must be there: the model, the data, the task pack. Nothing else of it is judged here."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.common.errors import UserError

_KEYS = ("model.name", "model.revision", "data.file", "task.name")


@dataclass(frozen=True)
class Recipe:
    """The names in it; None for what it does not name."""

    path: Path
    model: str | None = None
    revision: str | None = None
    data: Path | None = None
    """As the trainers read it: relative to the current folder."""
    task: str | None = None


def read_recipe(path: Path) -> Recipe:
    """Return what a recipe names. Raises UserError for a file that is none, is no TOML, or names no text there."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        near = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*.toml")], n=1)
        hint = f"; {path.parent / near[0]} is there" if near else "; check the path"
        raise UserError(f"the recipe {path} cannot be read: {fault.strerror}{hint}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise UserError(f"the recipe {path} is not valid TOML: {fault}") from None
    model, revision, data, task = (_text(path, table, key) for key in _KEYS)
    return Recipe(path, model, revision, None if data is None else Path(data), task)


def _text(path: Path, table: dict[str, Any], key: str) -> str | None:
    section, name = key.split(".")
    of = table.get(section, {})
    value = of.get(name) if isinstance(of, dict) else of
    if value is None or isinstance(value, str):
        return value
    raise UserError(f"{path}: {key if isinstance(of, dict) else section} is {value!r}: expected {key} to be text")
