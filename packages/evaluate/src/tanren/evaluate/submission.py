"""Submissions: a JSON list of `{"task_id", "generation"}`, one entry for each task, in the order of the tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.common.errors import UserError
from tanren.common.run import write_atomically
from tanren.common.task_contract import Row
from tanren.evaluate.predictions import Answer, Prediction, read_predictions

_KEYS = {"task_id", "generation"}


@dataclass(frozen=True)
class Entry:
    """One entry of a submission."""

    id: str
    completion: str


def read_answers(path: Path) -> list[Prediction] | list[Entry]:
    """Read predictions (JSONL) or a submission (a JSON list). Raises UserError for what is neither, and for an empty file."""
    if path.is_file() and is_json_list(path):
        answers: list[Prediction] | list[Entry] = [
            _entry(record, f"{path}: entry {number}") for number, record in enumerate(read_list(path), start=1)
        ]
    else:
        answers = read_predictions(path)
    if not answers:
        raise UserError(f"{path}: nothing is in it; expected predictions or a submission")
    return answers


def is_json_list(path: Path) -> bool:
    """Tell whether a file is a JSON list, and not JSONL, by its first character."""
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def read_list(path: Path) -> list[Any]:
    """Read a file with a JSON list. Raises UserError with what is wrong with it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from None
    assert isinstance(values, list), "a JSON text that starts with [ is a list"
    return values


def check_order(rows: Sequence[Row], entries: Sequence[Answer], where: str) -> None:
    """Raise UserError unless the entries, which fit the tasks, also come in their order."""
    for number, (row, entry) in enumerate(zip(rows, entries, strict=True), start=1):
        if row.id != entry.id:
            raise UserError(
                f"{where}: entry {number}: found the id {entry.id}, expected {row.id}: the order is not that of the tasks; "
                "write the file anew with --out FILE"
            )


def write_submission(path: Path, entries: Sequence[Entry]) -> None:
    """Write a submission, whole or not at all. Raises UserError where the file is already."""
    if path.exists():
        raise UserError(f"{path} is already there; name another file, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [{"task_id": entry.id, "generation": entry.completion} for entry in entries]
    write_atomically(path, json.dumps(records, ensure_ascii=False, indent=1) + "\n")


def _entry(record: Any, where: str) -> Entry:
    if not isinstance(record, dict) or set(record) != _KEYS:
        found = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise UserError(f"{where}: found {found}; expected an object with task_id and generation")
    for key in ("task_id", "generation"):
        if not isinstance(record[key], str):
            raise UserError(f"{where}: {key}: found {record[key]!r}, expected text")
    return Entry(record["task_id"], record["generation"])
