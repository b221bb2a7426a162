"""CSV: one header line with unique names, then records of the same width; every cell is text (RFC 4180)."""

from __future__ import annotations

import csv
import io

from .limits import MAX_NODES, FormatError, check_text
from .values import Value, text_of


def write(value: Value, *, one_line: bool) -> str:  # noqa: ARG001 - CSV has one style at every size
    """Write a list of flat records of equal keys, quoted where needed, without a final newline."""
    assert isinstance(value, list), "a CSV document is a list of records"
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    names: list[str] = []
    for record in value:
        assert isinstance(record, dict), "a CSV record is a mapping"
        if not names:
            names = list(record)
            writer.writerow(names)
        cells = [record[name] for name in names]
        writer.writerow([text_of(cell) for cell in cells if not isinstance(cell, dict | list)])
    return output.getvalue().removesuffix("\n")


def parse(text: str) -> Value:
    """Read the records under a header as a list of mappings from name to text; blank lines are skipped.

    Raises FormatError unless names are unique and not empty, a record follows, and all have the same width.
    """
    check_text(text)
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise FormatError(f"CSV: {error}") from None
    if len(lines) < 2:
        raise FormatError(f"CSV: found {len(lines)} line, expected a header and at least one record")
    header, *records = lines
    if len(set(header)) < len(header) or not all(header):
        raise FormatError("CSV: a name of the header is empty or there twice")
    if len(header) * len(records) > MAX_NODES:
        raise FormatError(f"CSV: more than {MAX_NODES} cells")
    for number, record in enumerate(records, start=1):
        if len(record) != len(header):
            raise FormatError(f"CSV: record {number} has {len(record)} cells, the header has {len(header)}")
    return [dict(zip(header, record, strict=True)) for record in records]
