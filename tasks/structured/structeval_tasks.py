"""The tasks of StructEval-T as rows of this pack: `[{"task_id", "task_name", "query", "output_type", ...}]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row

from .formats import FORMATS
from .limits import FormatError
from .values import Value

_NAMES = {entry.title: entry.name for entry in FORMATS.values()}
_CONVERSION = re.compile(r"(\w+) to (\w+)", re.IGNORECASE)
_SOURCE = re.compile(r"<code>(.*?)(?:</code>|\Z)", re.DOTALL)
"""Two of the 150 public tasks do not close it."""


def read_tasks(records: Sequence[Any], where: str) -> list[Row]:
    """Return the tasks as rows: `group` from `output_type`, the source's format and text of a conversion in `metadata`.

    Only where there is such a source, and it parses, is an answer compared with anything.

    Raises UserError for what is no such task, for a type that is none of the five and for an id that is there twice.
    """
    rows: dict[str, Row] = {}
    for number, record in enumerate(records, start=1):
        row = _row(record, f"{where}: task {number}")
        if row.id in rows:
            raise UserError(f"{where}: task {number}: the id {row.id!r} is there twice; ids must be unique")
        rows[row.id] = row
    if not rows:
        raise UserError(f"{where}: no task is in it")
    return list(rows.values())


def _row(record: Any, where: str) -> Row:
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: found {type(record).__name__}, expected an object with task_id, query and output_type"
        )
    for key in ("task_id", "query", "output_type"):
        if not isinstance(record.get(key), str) or not record[key]:
            raise UserError(f"{where}: {key}: found {record.get(key)!r}, expected text")
    group = _NAMES.get(record["output_type"].upper())
    if group is None:
        raise UserError(f"{where}: output_type: found {record['output_type']!r}, expected one of {', '.join(_NAMES)}")
    paths = record.get("raw_output_metric", [])
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise UserError(f"{where}: raw_output_metric: expected a list of paths")
    name = str(record.get("task_name", ""))
    metadata = {"task_name": name, "raw_output_metric": paths}
    conversion = _CONVERSION.fullmatch(name)
    source = _SOURCE.search(record["query"])
    if conversion and source and conversion[1].lower() in FORMATS:
        metadata |= {"source_format": conversion[1].lower(), "source_text": source[1]}
    row = Row(record["task_id"], (Message("user", record["query"]),), "", group, metadata=metadata)
    return replace(row, compared=source_of(row) is not None)


def source_of(row: Row) -> tuple[str, Value] | None:
    """Return format and value of the document that a row asks to convert; None where there is none, or none that parses."""
    if "source_text" not in row.metadata:
        return None
    name = str(row.metadata["source_format"])
    try:
        return name, FORMATS[name].parse(str(row.metadata["source_text"]).strip("\r\n"))
    except FormatError:
        return None
