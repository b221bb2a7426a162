"""A resolved configuration as TOML, every value with its origin as a comment; it can be read back as a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w


def dump_toml(values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """Write nested `values` (JSON types) as TOML; `origins` maps dotted names to where a value came from.

    TOML has no null: a value that is None becomes a comment line, and reads back as the default.
    """
    return "\n".join(_lines(values, origins, ())) + "\n"


def _lines(values: Mapping[str, Any], origins: Mapping[str, str], path: tuple[str, ...]) -> Iterator[str]:
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    for key, value in values.items():
        if key in tables:
            continue
        origin = origins.get(".".join((*path, key)), "default")
        if value is None:
            yield f"# {key} is not set  # {origin}"
            continue
        first, *rest = tomli_w.dumps({key: value}).rstrip("\n").split("\n")
        yield from [*([first, *rest][:-1]), f"{[first, *rest][-1]}  # {origin}"]
    for key, table in tables.items():
        yield ""
        yield f"[{'.'.join((*path, key))}]"
        yield from _lines(table, origins, (*path, key))
