"""Older data: a JSON list of `{"instruction", "input", "output"}`, the output a JSON text, as rows to score answers against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row

from .answer import shape_error
from .fields import PERSON_KEYS, content_of


def read_tasks(records: Sequence[Any], where: str) -> list[Row]:
    """Return a row for each record; its id is `id` or `task_id`, else its number from 1, as six digits.

    Raises UserError with the place of every fault (ten are listed): no article, an output that is no JSON of the three lists.
    """
    rows: list[Row] = []
    faults: list[str] = []
    for number, record in enumerate(records, start=1):
        try:
            rows.append(_row(number, record))
        except ValueError as error:
            faults.append(f"{where}: record {number}: {error}")
    if faults:
        more = f"\nand {len(faults) - 10} more" if len(faults) > 10 else ""
        raise UserError(
            "\n".join(faults[:10])
            + more
            + '\nexpected {"instruction", "input": the article, "output": a JSON object as text}'
        )
    return rows


def _row(number: int, record: Any) -> Row:
    if not isinstance(record, dict):
        raise ValueError("no object")  # noqa: TRY004 (one kind of fault)
    texts = {key: record.get(key, "") for key in ("instruction", "input", "output")}
    wrong = [key for key, value in texts.items() if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"{wrong[0]} is no text")
    if not texts["input"]:
        raise ValueError("no article in input")
    try:
        expected = json.loads(texts["output"])
    except json.JSONDecodeError as error:
        raise ValueError(f"output: {error}") from None
    fault = shape_error(expected) if isinstance(expected, dict) else "no object"
    if fault:
        raise ValueError(f"output: {fault}")
    offenders = any(content_of(expected, PERSON_KEYS).values())
    question = "\n\n".join(text for text in (texts["instruction"], texts["input"]) if text)
    return Row(
        id=str(record.get("id", record.get("task_id", f"{number:06d}"))),
        prompt=(Message("user", question),),
        reference=texts["output"],
        group="positive" if offenders else "negative",
        expected=expected,
        metadata={"article": texts["input"], "person_keys": list(PERSON_KEYS)},
    )
