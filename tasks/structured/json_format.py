"""JSON: strict (RFC 8259), without NaN, Infinity or repeated keys."""

from __future__ import annotations

import json

from tanren.common.strict_json import StrictJsonError, read_strict

from .limits import MAX_DEPTH, FormatError, check_number, check_text, check_value
from .values import Value


def write(value: Value, *, one_line: bool) -> str:
    """Write JSON on one line (`{"a": 1, "b": 2}`) or indented by two spaces, without escaping Unicode."""
    return json.dumps(value, ensure_ascii=False, indent=None if one_line else 2)


def parse(text: str) -> Value:
    """Read a JSON object or array. Raises FormatError."""
    check_text(text)
    try:
        value: Value = read_strict(text, depth=MAX_DEPTH, check_number=check_number)
    except StrictJsonError as error:
        raise FormatError(f"JSON: {error}") from None
    if not isinstance(value, dict | list):
        raise FormatError("JSON: found a bare value, expected an object or an array", absent=True)
    check_value(value)
    return value
