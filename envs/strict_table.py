"""A TOML table that is read key by key: each with its kind, and what is left over is refused. Standard library only."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

T = TypeVar("T")
KINDS = {str: "a string", list: "a list", dict: "a table", bool: "true or false"}


class ManifestError(Exception):
    """A manifest that the model refuses; the message says all."""


class Table:
    """One table of the file. Every reading names its key; `end` refuses the keys that nobody named."""

    def __init__(self, raw: object, place: str = "") -> None:
        """Keep the table and where it stands: 'feature.gpu'."""
        if not isinstance(raw, dict):
            raise ManifestError(f"[{place}] is {raw!r}: expected a table")
        self.raw: dict[str, Any] = raw
        self.place = place
        self.known: list[str] = []

    def take(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of a key; ManifestError where it is of another kind, or missing without a default."""
        self.known.append(key)
        value = self.raw.get(key, default)
        if value is None:
            raise ManifestError(f"{self.at}the key '{key}' is missing: expected {KINDS[kind]}")
        if not isinstance(value, kind):
            raise ManifestError(f"{self.at}{key} is {value!r}: expected {KINDS[kind]}")
        return value

    def texts(self, key: str, default: list[str] | None = None) -> tuple[str, ...]:
        """A list of strings, none twice."""
        values: list[Any] = self.take(key, list, default)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise ManifestError(f"{self.at}{key} holds {value!r}: expected strings only")
            if value in values[:i]:
                raise ManifestError(f"{self.at}{key} holds '{value}' twice: expected once")
        return tuple(values)

    def table(self, key: str) -> Table:
        """A table inside this one; an empty one where it is missing."""
        return Table(self.take(key, dict, {}), self._below(key))

    def entries(self, key: str) -> list[tuple[str, Any, str]]:
        """(name, value, place) of each entry of a table whose keys are names."""
        return [(name, value, f"{self._below(key)}.{name}") for name, value in self.take(key, dict, {}).items()]

    def end(self, elsewhere: dict[str, str]) -> None:
        """Refuse the keys that were not read; `elsewhere` says for some of them where such things belong."""
        for key in self.raw:
            if key in self.known:
                continue
            if key in elsewhere:
                raise ManifestError(f"{self.at}'{key}' is not used in this workspace: {elsewhere[key]}")
            near = difflib.get_close_matches(key, self.known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ManifestError(f"{self.at}unknown key '{key}': expected one of {', '.join(self.known)}{hint}")

    @property
    def at(self) -> str:
        """How a message about this table begins: '[feature.gpu]: '."""
        return f"[{self.place}]: " if self.place else ""

    def _below(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key
