"""Rows and answers written by hand, for the tests of this folder."""

from __future__ import annotations

import json
from typing import Any

from tanren.common.task_contract import Message, Row

KEYS = ("name", "is_real", "is_offender", "age", "position", "affiliation", "address", "category", "act")
ARTICLE = (
    "Norfield Police arrested Ana Reyes, 34, a clerk at Alder Foods, of Ashwick, and Ben Crane, 51, over theft in Mill Road, "
    "Norfield. Mayor Ivo Lang thanked the officers."
)
ARTICLE_JA = (
    "霧里署は3日、霧里市での窃盗の疑いで、アルダー食品の会社員、青柳明容疑者(34)を逮捕した。泉谷さんが通報した。"
)
NOTHING: dict[str, Any] = {"persons": [], "occured_locations": [], "police_departments": []}


def person(name: str, act: str = "theft", **values: Any) -> dict[str, Any]:
    return {"name": name, "is_real": True, "is_offender": True, "act": act} | values


ANA = person("Ana Reyes", age=34, position="clerk", affiliation="Alder Foods", address="Ashwick")
BEN = person("Ben Crane", age=51, position=None, affiliation="", address="")


def gold(*persons: dict[str, Any]) -> dict[str, Any]:
    if not persons:
        return NOTHING
    return {
        "persons": list(persons),
        "occured_locations": ["Mill Road, Norfield"],
        "police_departments": ["Norfield Police"],
    }


def row(expected: dict[str, Any], article: str = ARTICLE, keys: tuple[str, ...] = KEYS) -> Row:
    return Row(
        "r",
        (Message("user", article),),
        json.dumps(expected),
        "en positive",
        expected,
        {"article": article, "person_keys": list(keys)},
    )


def answer(expected: dict[str, Any], **changes: Any) -> str:
    return json.dumps(expected | changes, ensure_ascii=False)
