"""Telling a document in plain English, so that every value and its type can be read back without doubt.

A string that is not plainly words stands in double quotes. Keys are told as labels (`unit_price` and
`unitPrice` are "unit price"); the prompt lists the keys themselves (`outline`).
"""

from __future__ import annotations

import random
import re

from .shapes import ListOf, Shape
from .values import Scalar, Value, natural, text_of

_PLAIN_WORDS = re.compile(r"[A-Za-z][A-Za-z-]*(?: [A-Za-z][A-Za-z-]*)*")
_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\dZ)?|\d\d:\d\d")
_NOT_PLAIN = ("yes", "no", "on", "off", "null", "and", "empty", "true", "false")
_ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
    "tenth", "eleventh", "twelfth",
    "thirteenth", "fourteenth",
)  # fmt: skip
_FIELDS_PER_SENTENCE = 4


def tell(rng: random.Random, name: str, document: dict[str, Value]) -> str:
    """Return sentences that state every field of a document about one `name`, such as "order"."""
    if len(document) == 1 and isinstance(next(iter(document.values())), list):
        ((plural, records),) = document.items()
        assert isinstance(records, list)
        return " ".join([f"There are {len(records)} {_label(plural)}.", *_entries(name, records)])
    opening = rng.choice(("The {} has", "This {} has", "There is one {}. It has", "We have a record of one {}. It has"))
    return " ".join(_sentences(document, opening.format(_label(name)), f"the {_label(name)}"))


def _sentences(mapping: dict[str, Value], opening: str, owner: str) -> list[str]:
    """Return the sentences of one mapping: its scalars first, then its lists and the mappings in it."""
    fields = [f"{_label(key)} {_word(value)}" for key, value in mapping.items() if not isinstance(value, dict | list)]
    sentences = []
    for start in range(0, len(fields), _FIELDS_PER_SENTENCE):
        verb = opening if start == 0 else f"{owner[0].upper()}{owner[1:]} also has"
        sentences.append(f"{verb} {_join(fields[start : start + _FIELDS_PER_SENTENCE])}.")
    for key, value in mapping.items():
        part = f"the {_label(key)} of {owner}"
        if isinstance(value, dict):
            sentences.extend(_sentences(value, f"T{part[1:]} has", part))
        elif isinstance(value, list):
            sentences.extend(_list_sentences(key, value, part))
    return sentences


def _list_sentences(key: str, values: list[Value], part: str) -> list[str]:
    if any(isinstance(value, dict) for value in values):
        return [f"T{part[1:]}: {len(values)} in all.", *_entries(f"of the {_label(key)}", values)]
    words = [_word(value) for value in values if not isinstance(value, dict | list)]
    return [f"T{part[1:]}, in this order: {', '.join(words)}."]


def _entries(name: str, records: list[Value]) -> list[str]:
    sentences = []
    for ordinal, record in zip(_ORDINALS, records, strict=False):
        assert isinstance(record, dict)
        owner = f"the {ordinal} {name}"
        sentences.extend(_sentences(record, f"T{owner[1:]} has", owner))
    assert len(records) <= len(_ORDINALS), "a list of records is no longer than the ordinals reach"
    return sentences


def _label(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key.replace("_", " ")).lower()


def _word(value: Scalar) -> str:
    if value is None:
        return "null"
    if not isinstance(value, str) or _ISO_TIME.fullmatch(value):
        return text_of(value)
    plain = _PLAIN_WORDS.fullmatch(value) and value.lower() not in _NOT_PLAIN and natural(value) == value
    return value if plain else f'"{value}"'


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def outline(shape: Shape) -> str:
    """Return the keys of a shape: `id, customer {name, city}, tags [], lines [{sku, qty}]`."""
    if isinstance(shape, ListOf):
        return f"[{{{outline(shape.of)}}}]" if isinstance(shape.of, dict) else "[]"
    assert isinstance(shape, dict), "an outline is asked of mappings and lists"
    return ", ".join(f"{key}{_inner_outline(inner)}" for key, inner in shape.items())


def _inner_outline(shape: Shape) -> str:
    if isinstance(shape, dict):
        return f" {{{outline(shape)}}}"
    return f" {outline(shape)}" if isinstance(shape, ListOf) else ""
