"""JSON: strict (RFC 8259), without NaN, Infinity or repeated keys."""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

from .limits import MAX_DEPTH, FormatError, check_number, check_text, check_value
from .values import Value

# Strings are skipped whole; an unclosed one runs to the end, where the parser will refuse it.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def write(value: Value, *, one_line: bool) -> str:
    """Write JSON on one line (`{"a": 1, "b": 2}`) or indented by two spaces, without escaping Unicode."""
    return json.dumps(value, ensure_ascii=False, indent=None if one_line else 2)


def parse(text: str) -> Value:
    """Read a JSON object or array. Raises FormatError."""
    check_text(text)
    _check_depth(text)
    try:
        value: Value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except json.JSONDecodeError as error:
        raise FormatError(f"JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    if not isinstance(value, dict | list):
        raise FormatError("JSON: found a bare value, expected an object or an array", absent=True)
    check_value(value)
    return value


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:  # counting is a hundredth of the work
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match.group()
        if token in ("[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise FormatError(f"JSON: nested deeper than {MAX_DEPTH} levels")
        elif token in ("]", "}"):
            depth -= 1


def _object(pairs: list[tuple[str, Value]]) -> Value:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise FormatError(f"JSON: the key {name[:40]!r} is there twice")
            seen.add(name)
    return found


def _no_constant(name: str) -> NoReturn:
    raise FormatError(f"JSON: {name} is no JSON value")


def _integer(text: str) -> int:
    check_number(text)
    return int(text)


def _float(text: str) -> float:
    check_number(text)
    number = float(text)
    if not math.isfinite(number):
        raise FormatError(f"JSON: {text[:40]} is beyond the range of a number")
    return number
