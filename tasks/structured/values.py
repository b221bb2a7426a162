"""The values that documents are made of, and how XML and CSV, which carry text alone, write and read them."""

from __future__ import annotations

import json
import re
from typing import TypeAlias

Scalar: TypeAlias = "bool | int | float | str | None"
Value: TypeAlias = "Scalar | list[Value] | dict[str, Value]"

JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
"""A number as RFC 8259, section 6 writes it: no leading zero or plus, digits on both sides of the point."""

MAX_NUMBER_CHARACTERS = 400
"""No number of a document is longer; reading 10^5 digits takes seconds, and printing them fails past 4300."""


def text_of(value: Scalar) -> str:
    """Return the text of a scalar in XML and CSV: `true`, `12`, `-3.5`, or the string itself."""
    if isinstance(value, str):
        return value
    assert value is not None, "XML and CSV have no null: such a document must not get here"
    return json.dumps(value)


def number_in(text: str) -> int | float | None:
    """Return the number that `text` spells as JSON would, or None when it spells none."""
    if len(text) > MAX_NUMBER_CHARACTERS or not JSON_NUMBER.fullmatch(text):
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def natural(text: str) -> Scalar:
    """Type a text: a JSON number is a number, `true` and `false` are booleans, the rest are strings."""
    if text in ("true", "false"):
        return text == "true"
    number = number_in(text)
    return text if number is None else number


def naturally_typed(value: Value) -> Value:
    """Type every text of a value that was read from XML or CSV."""
    if isinstance(value, dict):
        return {key: naturally_typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [naturally_typed(inner) for inner in value]
    return natural(value) if isinstance(value, str) else value
