"""Rows of tables: parquet, a row group's batch at a time, and CSV, a line at a time."""

from __future__ import annotations

import codecs
import csv
import math
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from tanren.common.data._records import Fault, Record

BATCH = 256  # rows of a parquet file that are Python objects at a time


def read_parquet(path: Path) -> Iterator[Record | Fault]:
    """Yield the rows of a parquet file as Python's own types, never arrays: an array is neither true nor false."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        yield Fault(str(path), f"not a parquet file that can be read: {error}", rows=0)
        return
    with file:
        names = file.schema_arrow.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            yield Fault(str(path), f"the columns {twice} occur twice: which of the two holds is not said", rows=0)
            return
        number = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            first = number
            try:
                for batch in file.iter_batches(BATCH, row_groups=[group]):
                    for value in batch.to_pylist():
                        number += 1
                        yield Record(number, f"{path}: row {number}", plain(value), columnar=True)
            except (pa.ArrowException, OSError, ValueError) as error:
                unread = first + size - number
                message = f"row group {group}: {unread} rows cannot be read: {error}"
                yield Fault(f"{path}: rows {number + 1} to {first + size}", message, rows=unread)
                number = first + size


def plain(value: Any) -> Any:
    """Return a value of a column as JSON would have it: times and decimals as text, no bytes, nothing for NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime | date | time | timedelta | Decimal):
        return str(value)
    return value


def read_csv(stream: IO[bytes], path: str) -> Iterator[Record | Fault]:
    """Yield the rows of a comma-separated file whose first line names the columns."""
    lines = csv.reader(_text(stream), strict=True)
    header: list[str] | None = None
    number, begin = 0, 1
    while True:
        try:
            cells = next(lines, None)
        except csv.Error as error:
            yield Fault(f"{path}:{begin}", f"not CSV: {error}; what follows cannot be read", rows=0)
            return
        if cells is None:
            return
        place, begin = f"{path}:{begin}", lines.line_num + 1
        if not cells:
            continue
        if header is None:
            header = cells
            message = _what_is_wrong_with(header)
            if message:
                yield Fault(place, message, rows=0)
                return
            continue
        number += 1
        row = dict(zip(header, cells, strict=False))
        if len(cells) != len(header):
            yield Fault(place, f"found {len(cells)} cells, the first line names {len(header)} columns")
        elif any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
            yield Fault(place, "not UTF-8 text")
        else:
            yield Record(number, place, row)


def _what_is_wrong_with(header: list[str]) -> str:
    if len(set(header)) < len(header):
        return f"the first line names a column twice: {header}"
    if "" in header:
        return f"the first line has a column without a name: {header}"
    return ""


def _text(stream: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(stream):
        yield (line.removeprefix(codecs.BOM_UTF8) if number == 0 else line).decode("utf-8", "surrogateescape")
