"""`tanren data validate`: is every payload what its row says it is? Over all rows, and nothing is left out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tanren.common.console import Console
from tanren.common.data._formats import check_payload
from tanren.common.data._payload import FORMATS, payload_format, payload_of
from tanren.common.data._records import Fault
from tanren.common.data._show import head, new_table, percent, print_json, told
from tanren.common.data._source import Source, scan
from tanren.common.errors import ExitCode, UserError
from tanren.common.task_contract import Row

MOST_ERRORS = 10
SHOWN_ROWS = 3
PROMPT_HEAD, PAYLOAD_HEAD = 200, 400  # characters of a failing row that show what went wrong


@dataclass
class Verdicts:
    """What became of the rows of all sources."""

    rows: int = 0
    """All that were found, those that could not be read among them."""
    valid: Counter[str] = field(default_factory=Counter)
    invalid: Counter[str] = field(default_factory=Counter)
    without_format: int = 0
    unread: int = 0
    """Rows that could not be read; a file that could not be read, or not to its end, counts as one more."""
    errors: list[dict[str, str | None]] = field(default_factory=list)
    failing: list[tuple[Row, str, str]] = field(default_factory=list)
    """The rows to show: row, payload, error."""

    @property
    def good(self) -> bool:
        """Whether there are rows, and every one of them is valid."""
        return 0 < self.rows == self.valid.total()

    def as_json(self) -> dict[str, Any]:
        """Return the counts and all errors."""
        return {
            "rows": self.rows,
            "valid": self.valid.total(),
            "invalid_by_format": dict(self.invalid),
            "unread": self.unread,
            "without_format": self.without_format,
            "valid_by_format": dict(self.valid),
            "errors": self.errors,
        }


def run_validate(
    sources: Sequence[Source],
    markers: Sequence[str],
    *,
    as_json: bool,
    max_errors: int | None,
    only: str | None,
    show_rows: int | None,
) -> int:
    """Check every payload and print what was found. Exit code 0 only where every row is valid."""
    if as_json and (max_errors is not None or show_rows is not None):
        flag = "--max-errors" if max_errors is not None else "--show-rows"
        raise UserError(f"{flag} has no effect with --json: it lists all errors; take one of the two")
    if only is not None and only not in FORMATS:
        raise UserError(f"--format {only!r}: expected one of {', '.join(FORMATS)}")
    if only is not None and show_rows is None and not as_json:
        show_rows = SHOWN_ROWS
    found = Verdicts()
    console = Console()
    scans = [scan(source) for source in sources]  # a wrong name is told before anything is read
    for source, rows in zip(sources, scans, strict=True):
        with console.phase("validate", source.name):
            for row in told(console, "validate", rows):
                _judge(row, markers, found, only, show_rows or 0)
    if as_json:
        print_json(found.as_json())
    else:
        _print(found, MOST_ERRORS if max_errors is None else max_errors, only)
    return ExitCode.DONE if found.good else ExitCode.FOUND_WANTING


def _judge(row: Row | Fault, markers: Sequence[str], found: Verdicts, only: str | None, show_rows: int) -> None:
    if isinstance(row, Fault):
        found.rows += row.rows
        found.unread += max(1, row.rows)
        found.errors.append({"row": row.place, "format": None, "message": row.message})
        return
    found.rows += 1
    name = payload_format(row)
    if name is None:
        found.without_format += 1
        return
    payload = payload_of(row, markers)
    error = check_payload(name, payload)
    if error is None:
        found.valid[name] += 1
        return
    found.invalid[name] += 1
    found.errors.append({"row": row.id, "format": name, "message": error})
    if only in (None, name) and len(found.failing) < show_rows:
        found.failing.append((row, payload, error))


def _print(found: Verdicts, max_errors: int, only: str | None) -> None:
    out = Console(stream=sys.stdout)
    table = new_table("Payloads", "format", "rows", "valid", "invalid", "valid %")
    for name in FORMATS:
        valid, invalid = found.valid[name], found.invalid[name]
        if valid or invalid:
            table.add_row(name, str(valid + invalid), str(valid), str(invalid), percent(valid, valid + invalid))
    if found.without_format:
        table.add_row("without a format", str(found.without_format), "-", "-", "-")
    if found.unread:
        table.add_row("not read", str(found.unread), "-", "-", "-")
    table.add_section()
    valid = found.valid.total()
    table.add_row("all", str(found.rows), str(valid), str(found.invalid.total()), percent(valid, found.rows))
    out.rich.print(table)
    errors = [error for error in found.errors if only in (None, error["format"])]
    for error in errors[:max_errors]:
        kind = f" {error['format']}:" if error["format"] else ""
        out.text(f"{error['row']}:{kind} {error['message']}")
    if len(errors) > max_errors:
        out.text(f"... and {len(errors) - max_errors} more (--max-errors N, --json for all)")
    if found.without_format:
        out.text(
            f"{found.without_format} rows name none of the formats {', '.join(FORMATS)} (metadata.format, what stands behind "
            "_to_ in subcategory, category): their payload was not judged"
        )
    for row, payload, error_text in found.failing:
        out.text(f"\n--- {row.id}: {error_text}", style="bold")
        out.text(f"prompt:  {head(row.prompt[-1].content if row.prompt else '', PROMPT_HEAD)}")
        out.text(f"payload:\n{payload[:PAYLOAD_HEAD]}{'…' if len(payload) > PAYLOAD_HEAD else ''}")
