"""A resolved configuration as TOML, every value with its origin as a comment; it can be read back as a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w

DEFAULT = "default"
"""The origin of a value that nothing has set."""


def dump_toml(values: Mapping[str, Any], origins: Mapping[str, str], under: str = "") -> str:
    """Write nested `values` (JSON types) as TOML; `origins` maps dotted names to where a value came from.

    With `under` they are what stands below that heading, which the caller has written.
    TOML has no null: a value that is None becomes a comment line, and reads back as the default.
    """
    return "\n".join(_lines(values, origins, (under,) if under else ())) + "\n"


def origins_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted names of the values in a text of `dump_toml`, each with the origin that is marked there."""
    section = ""
    for line in text.split("\n"):
        if line.startswith("["):
            section = line.strip("[]") + "."
        elif not line.startswith("#"):
            name, _, rest = line.partition(" = ")
            _, mark, origin = rest.rpartition("  # ")
            if mark:
                yield section + name, origin


def _lines(values: Mapping[str, Any], origins: Mapping[str, str], path: tuple[str, ...]) -> Iterator[str]:
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    for key, value in values.items():
        if key in tables:
            continue
        origin = _printable(origins.get(".".join((*path, key)), DEFAULT))
        if value is None:
            yield f"# {_key(key)} is not set  # {origin}"
            continue
        yield f"{_key(key)} = {_value(value)}  # {origin}"
    for key, table in tables.items():
        yield ""
        yield f"[{'.'.join(map(_key, (*path, key)))}]"
        yield from _lines(table, origins, (*path, key))


def _key(key: str) -> str:
    return tomli_w.dumps({key: 0}).removesuffix(" = 0\n")


def _value(value: Any) -> str:
    """Write a value on one line: a table inside a list has to be an inline one, for a heading would leave the section.

    What is not set inside it is left out: a comment cannot stand there.
    """
    if isinstance(value, Mapping):
        there = {key: item for key, item in value.items() if item is not None}
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in there.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return tomli_w.dumps({"_": value}).removeprefix("_ = ").removesuffix("\n")


def _printable(origin: str) -> str:
    """A comment ends with its line, and holds no control character: a file's name may."""
    return "".join(character if character.isprintable() else "?" for character in origin)
