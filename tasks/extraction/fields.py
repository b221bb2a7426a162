"""The eight fields of an answer, and when two of them are equal: the one definition behind verdict, reward, metrics and report."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

PERSON_FIELDS = {
    "person_name": "name",
    "person_age_at_published": "age",
    "person_address": "address",
    "person_belongs_company": "affiliation",
    "person_position_name": "position",
    "person_violated_law": "act",
}
"""Fields of an offender, by the key that they have in the answer."""

LIST_FIELDS = ("occured_locations", "police_departments")
NAME, AGE = "person_name", "person_age_at_published"

PersonKey = Literal["name", "is_real", "is_offender", "age", "position", "affiliation", "address", "category", "act"]
PERSON_KEYS: tuple[PersonKey, ...] = get_args(PersonKey)
"""All keys that a person can be asked for. The category and whether the person is real are no fields: they are not compared."""

Content = dict[str, tuple[str, ...]]
"""The values of each compared field, in the answer's order; no offender: no values at all."""

_NUMBER = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3})?")
_SPACE = re.compile(r"\s+")
_HONORIFICS = re.compile(r"^(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.?(?=[A-Z])|(?:容疑者|被告人?|受刑者|さん|氏|様|君)$")


def fields_asked(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the fields that are compared where a person was asked for by these keys."""
    return (*(field for field, key in PERSON_FIELDS.items() if key in keys), *LIST_FIELDS)


def content_of(value: Mapping[str, Any], keys: Sequence[str]) -> Content:
    """Return what an object of the right shape says, for persons that were asked for by `keys`.

    A person counts as an offender with an act and, where that key was asked for, `is_offender: true`. Without an offender
    places and police departments do not count either. Null is "", as is a key that is not there.
    """
    offenders = [
        person
        for person in value["persons"]
        if as_text(person.get("act")) and ("is_offender" not in keys or person.get("is_offender") is True)
    ]
    fields = fields_asked(keys)
    if not offenders:
        return dict.fromkeys(fields, ())
    found: Content = {
        field: tuple(as_text(person.get(PERSON_FIELDS[field])) for person in offenders)
        for field in fields
        if field in PERSON_FIELDS
    }
    return found | {field: tuple(filter(None, map(as_text, value[field]))) for field in LIST_FIELDS}


def as_text(value: Any) -> str:
    """Return a plain value as text without space around it; null is ""."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    return str(value).strip()


def same_value(field: str, one: str, other: str) -> bool:
    """Whether two values of a field are equal: letter by letter; ages as numbers."""
    if one == other:
        return True
    if field != AGE:
        return False
    numbers = [_NUMBER.fullmatch(folded(text)) for text in (one, other)]
    return all(numbers) and len({float(number.group()) for number in numbers if number}) == 1


def same(field: str, one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two answers agree in a field: the same values in the same order, each as often; or both say nothing."""
    if is_blank(one) and is_blank(other):
        return True
    return len(one) == len(other) and all(same_value(field, a, b) for a, b in zip(one, other, strict=True))


def is_blank(values: Sequence[str]) -> bool:
    """Whether a field says nothing."""
    return not any(values)


def folded(text: str) -> str:
    """Return a text in compatibility form (NFKC: full-width letters are plain ones) and without any space."""
    return _SPACE.sub("", unicodedata.normalize("NFKC", text))


def occurs_in(value: str, folded_article: str) -> bool:
    """Whether a value stands in an article (`folded` already), an honorific that was added to it apart."""
    text = folded(value)
    return text in folded_article or ((bare := _HONORIFICS.sub("", text)) != "" and bare in folded_article)
