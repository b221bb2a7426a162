"""TOML: out, tables as `[a.b]` and `[[a.b]]`, lists on one line; in, TOML 1.0, with dates as ISO text."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import tomli_w

from .limits import MAX_DEPTH, FormatError, check_text, check_value
from .toml_lines import read_lines
from .values import Value

_MAX_BYTES = 16 * 1024
"""tomllib is pure Python: 16 KiB of long dotted keys cost it 35 ms; the largest gold document has 5 KiB."""

_STRING_OR_COMMENT = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+(?:"{3,5}|\\?\Z)'
    r"|'''(?:[^']++|'(?!''))*+(?:'{3,5}|\Z)"
    r'|"(?:[^"\\\n]++|\\.)*+"?'
    r"|'[^'\n]*+'?"
    r"|#[^\n]*+",
    re.DOTALL,
)
_LONG_DOTTED_KEY = re.compile(rf"(?<![\w\-])(?:[\w\-]++[ \t]*+\.[ \t]*+){{{MAX_DEPTH}}}")


def write(value: Value, *, one_line: bool) -> str:  # noqa: ARG001 - TOML has one style at every size
    """Write a mapping as TOML without a final newline.

    tomli_w writes keys and scalars; the layout is ours, because its own turns from tables to inline tables
    with the length of the line, and spreads each list over several lines.
    """
    assert isinstance(value, dict), "a TOML document is a mapping"
    lines: list[str] = []
    _write_table(value, (), lines)
    return "\n".join(lines)


def _write_table(table: dict[str, Value], path: tuple[str, ...], lines: list[str]) -> None:
    below: list[tuple[str, Value]] = []
    for key, value in table.items():
        if isinstance(value, dict) or _is_list_of_tables(value):
            below.append((key, value))
        else:
            lines.append(f"{_key(key)} = {_inline(value)}")
    for key, value in below:
        name = ".".join(_key(part) for part in (*path, key))
        for inner in value if isinstance(value, list) else [value]:
            if lines:
                lines.append("")
            lines.append(f"[[{name}]]" if isinstance(value, list) else f"[{name}]")
            assert isinstance(inner, dict)
            _write_table(inner, (*path, key), lines)


def _is_list_of_tables(value: Value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(inner, dict) for inner in value)


def _key(key: str) -> str:
    return tomli_w.dumps({key: 0}).removesuffix(" = 0\n")


def _inline(value: Value) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_inline(inner) for inner in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_inline(inner)}" for key, inner in value.items()) + " }"
    return tomli_w.dumps({"k": value}).removeprefix("k = ").removesuffix("\n")


def parse(text: str) -> Value:
    """Read a TOML document; native dates and times become ISO text, with `Z` for UTC. Raises FormatError."""
    check_text(text, _MAX_BYTES)
    _check_depth(text)
    try:
        found = read_lines(text)
        if found is None:
            found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"TOML: {error}") from None
    except (
        ValueError,
        RecursionError,
    ):  # an integer past Python's digit limit; nesting that the scan took for a string
        raise FormatError("TOML: a number or a nesting beyond the bounds") from None
    check_value(found)
    return _dates_as_text(found)


def _check_depth(text: str) -> None:
    """Refuse deep brackets, which exhaust the stack, and long dotted keys, whose cost is quadratic."""
    if text.count("[") + text.count("{") <= MAX_DEPTH and text.count(".") < MAX_DEPTH:
        return  # counting is a hundredth of the work
    bare = _STRING_OR_COMMENT.sub("s", text)
    if _LONG_DOTTED_KEY.search(bare):
        raise FormatError(f"TOML: a dotted key of more than {MAX_DEPTH} parts")
    depth = 0
    for match in re.finditer(r"[\[\]{}]", bare):
        depth += 1 if match.group() in "[{" else -1
        if depth > MAX_DEPTH:
            raise FormatError(f"TOML: nested deeper than {MAX_DEPTH} levels")


def _dates_as_text(top: dict[str, Any]) -> Value:
    """Turn dates and times into ISO text, in place."""
    waiting: list[Any] = [top]
    while waiting:
        node = waiting.pop()
        for key, value in node.items() if type(node) is dict else enumerate(node):
            kind = type(value)
            if kind is dict or kind is list:
                waiting.append(value)
            elif kind not in _SCALARS:
                node[key] = value.isoformat().replace("+00:00", "Z")
    return top


_SCALARS = frozenset((str, int, float, bool))
"""What tomllib makes of all that is no date, time, table or list."""
