"""JSON as RFC 8259 has it: without NaN, Infinity or repeated keys, and within bounds, for text that may be hostile."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

# Strings are skipped whole; an unclosed one runs to the end, where the parser will refuse it.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


class StrictJsonError(ValueError):
    """A text that is no strict JSON; the message says what was found."""


def read_strict(text: str, *, depth: int, check_number: Callable[[str], None]) -> Any:
    """Return the value of a text that is nested at most so deep; `check_number` raises for a number's text that is too long.

    Raises StrictJsonError, and whatever `check_number` raises.
    """
    _check_depth(text, depth)

    def integer(digits: str) -> int:
        check_number(digits)
        return int(digits)

    def real(digits: str) -> float:
        check_number(digits)
        number = float(digits)
        if not math.isfinite(number):
            raise StrictJsonError(f"{digits[:40]} is beyond the range of a number")
        return number

    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=integer, parse_float=real
        )
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"{error.msg} (line {error.lineno}, column {error.colno})") from None


def _check_depth(text: str, most: int) -> None:
    if text.count("[") + text.count("{") <= most:  # counting is a hundredth of the work
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match.group()
        if token in ("[", "{"):
            depth += 1
            if depth > most:
                raise StrictJsonError(f"nested deeper than {most} levels")
        elif token in ("]", "}"):
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise StrictJsonError(f"the key {name[:40]!r} is there twice")
            seen.add(name)
    return found


def _no_constant(name: str) -> NoReturn:
    raise StrictJsonError(f"{name} is no JSON value")
