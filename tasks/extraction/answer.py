"""Reading an answer: the JSON object in it, strictly and within bounds, and whether it has the asked shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tanren.common.actions import find_answer
from tanren.common.strict_json import StrictJsonError, read_strict

LISTS = ("persons", "occured_locations", "police_departments")
"""The keys of an answer, spelled as the data that this pack continues has them."""

MAX_CHARACTERS = 64 * 1024
"""Longest answer that is read. Gold answers have at most a thousand."""

MAX_DEPTH = 16
"""Deepest nesting that is read; gold answers reach 3."""

MAX_DIGITS = 40
"""Longest number that is read: ages have two or three digits."""


class AnswerError(Exception):
    """An answer that cannot be read. `absent` says that there was not even a `{...}`."""

    def __init__(self, message: str, *, absent: bool = False) -> None:
        """Take the message: what was found, what was expected."""
        super().__init__(message)
        self.absent = absent


def read_object(completion: str) -> dict[str, Any]:
    """Return the JSON object from the first "{" to the last "}" behind the reasoning. Raises AnswerError.

    Reasoning ends with `</think>`, or where Harmony's final channel begins. Repeated keys, NaN and infinity are refused.
    """
    answer, why = find_answer(completion)
    first, last = answer.find("{"), answer.rfind("}")
    if why or first < 0 or last < first:
        raise AnswerError(why or "no { ... } was written", absent=True)
    text = answer[first : last + 1]
    if len(text) > MAX_CHARACTERS:
        raise AnswerError(f"{len(text)} characters, at most {MAX_CHARACTERS} are read")
    try:
        value = read_strict(text, depth=MAX_DEPTH, check_number=_check_digits)
    except StrictJsonError as error:
        raise AnswerError(str(error)) from None
    assert isinstance(value, dict)  # the text begins with "{"
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # "\ud800" is JSON, and no text that could be written to a file
        raise AnswerError("an escape of half a character (a lone surrogate)") from None
    return value


def shape_error(value: Mapping[str, Any]) -> str:
    """Return what is wrong with an object's shape, or "": the three keys, each a list, of objects with plain values or of texts."""
    for name in LISTS:
        if name not in value:
            return f"no key {name!r}"
        if not isinstance(value[name], list):
            return f"{name} is no list"
    for number, person in enumerate(value["persons"]):
        if not isinstance(person, dict):
            return f"persons[{number}] is no object"
        for key, entry in person.items():
            if isinstance(entry, dict | list):
                return f"persons[{number}].{key} is no plain value"
    for name in LISTS[1:]:
        for number, entry in enumerate(value[name]):
            if not isinstance(entry, str):
                return f"{name}[{number}] is no text"
    return ""


def _check_digits(text: str) -> None:
    if len(text) > MAX_DIGITS:
        raise AnswerError(f"a number of {len(text)} characters, at most {MAX_DIGITS} are read")
