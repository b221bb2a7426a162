"""Plain TOML, read line by line: what most answers are, in a third of the time of tomllib, which is written in Python.

Only what is read exactly as tomllib reads it: lines of `key = value` on one line and headers of bare keys, each table opened
once. Anything else is left to tomllib as a whole, and so is every error: what is read here is valid.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

_STRING = r'"[^"\\\x00-\x1f\x7f]*+"'
_NUMBER = r"-?(?:0|[1-9][0-9]{0,17}+)(?![0-9])(?:\.[0-9]{1,18})?(?:e[+-]?[0-9]{1,3})?"
"""What JSON and TOML have in common, few digits only."""
_ONE = rf"(?:{_STRING}|{_NUMBER}|true|false)"
_PLAIN = re.compile(rf"([A-Za-z0-9_-]++) = (?:({_STRING})|((?:{_NUMBER}|true|false)|\[(?:{_ONE}(?:, ?{_ONE})*+)?\]))")
_KEY = re.compile(r"([A-Za-z0-9_-]++)[ \t]*+=[^{]*+")
_HEADER = re.compile(r"\[(?:([A-Za-z0-9_.-]++)|\[([A-Za-z0-9_.-]++)\])\]")
_MAX_OTHER = 12
"""Most lines of another kind that tomllib reads one at a time; with more of them it is faster on the whole."""

Table = dict[str, Any]


def read_lines(text: str) -> Table | None:
    """Return what `tomllib.loads` would, or None where that has to be asked."""
    tables = _Tables()
    others = 0
    for line in text.split("\n"):
        match = _PLAIN.fullmatch(line)
        if match:
            key, quoted, other = match.groups()
            value = json.loads(other) if quoted is None else quoted[1:-1]
        elif not line:
            continue
        elif line[0] == "[":
            if not tables.open(line):
                return None
            continue
        else:
            others += 1
            key = _key(line)
            value = _value(line) if key and others <= _MAX_OTHER else None
            if value is None:
                return None
        if key in tables.current:
            return None
        tables.current[key] = value
    return tables.root


def _key(line: str) -> str | None:
    """Return the key of a line that is no more than one value of a bare key, without inline tables: no header reaches into it."""
    match = _KEY.fullmatch(line)
    return match[1] if match else None


def _value(line: str) -> Any:
    """Return the value of a line that is whole in itself. So it means the same between others; None where it is not."""
    try:
        (value,) = tomllib.loads(line).values()
    except (ValueError, RecursionError):
        return None
    return value


class _Tables:
    """The document, and the table that lines belong to."""

    def __init__(self) -> None:
        self.root: Table = {}
        self.current = self.root
        self.arrays: set[int] = set()  # the lists that `[[...]]` has made: only those can be continued

    def open(self, line: str) -> bool:
        """Go to the table of a header; False where it is no plain header, or names what is there already."""
        match = _HEADER.fullmatch(line)
        if match is None:
            return False
        *above, last = (match[1] or match[2]).split(".")
        node: Any = self.root
        for part in above:
            node = node.setdefault(part, {})
            if id(node) in self.arrays:
                node = node[-1]
            if not part or type(node) is not dict:
                return False
        if not last:
            return False
        self.current = {}
        if match[1]:
            return node.setdefault(last, self.current) is self.current
        if last not in node:
            node[last] = []
            self.arrays.add(id(node[last]))
        if id(node[last]) not in self.arrays:
            return False
        node[last].append(self.current)
        return True
