"""`tanren data inspect`: what is in the sources, before anything is decided about them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from tanren.common.console import Console
from tanren.common.data._layouts import AUTO, layout_of
from tanren.common.data._payload import find_marker, payload_format, payload_of
from tanren.common.data._records import Fault, FaultyRowError, Record
from tanren.common.data._show import head, new_table, opened, percent, print_json, say_faults, told
from tanren.common.data._source import Source, scan_records
from tanren.common.errors import ExitCode
from tanren.common.task_contract import Row

MOST_VALUES = 5
"""So many values of a key are listed, the most frequent first."""
MOST_DIFFERENT = 1000
"""A key with more different values (an id, a text) is not counted further: memory stays flat."""
RARE = 0.02
"""Where no value is in this share of the rows, values tell nothing: a text, an id."""
VALUE_HEAD = 24  # characters of a value
NO_FORMAT = "none"


@dataclass
class Values:
    """The values of one key of the metadata."""

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Empty once there are too many different ones."""
    many: bool = False

    def take(self, value: Any) -> None:
        """Count a value."""
        self.rows += 1
        if self.many:
            return
        self.counts[value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)] += 1
        if len(self.counts) > MOST_DIFFERENT:
            self.many = True
            self.counts.clear()

    def listed(self) -> str:
        """Return the most frequent values with how often they come."""
        if self.many:
            return f"more than {MOST_DIFFERENT} different ones"
        common = self.counts.most_common(MOST_VALUES)
        if common[0][1] < RARE * self.rows and len(self.counts) > MOST_VALUES:
            return f"{len(self.counts)} different ones"
        more = len(self.counts) - len(common)
        return ", ".join(f"{head(value, VALUE_HEAD)} {count}" for value, count in common) + (
            f", {more} more" if more else ""
        )


@dataclass
class Contents:
    """What is in one source."""

    name: str
    rows: int = 0
    unread: int = 0
    layouts: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)
    """In how many rows each key of a row is there and not null."""
    roles: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    with_marker: int = 0
    several_markers: int = 0
    empty_answers: int = 0
    metadata: dict[str, Values] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def take(self, record: Record | None, row: Row | Fault, layout: str, markers: Sequence[str]) -> None:
        """Count a row."""
        if record is not None and isinstance(record.value, Mapping):
            self.keys.update(key for key, value in record.value.items() if value is not None)
        if isinstance(row, Fault):
            self.unread += max(1, row.rows)
            self.faults.append(row)
            return
        self.rows += 1
        self.layouts[_layout(record, layout)] += 1
        self.roles[_roles(row)] += 1
        self.formats[payload_format(row) or NO_FORMAT] += 1
        _, count = find_marker(row, markers)
        self.with_marker += count > 0
        self.several_markers += count > 1
        self.empty_answers += not payload_of(row, markers).strip()
        for key, value in row.metadata.items():
            self.metadata.setdefault(key, Values()).take(value)

    def as_json(self) -> dict[str, Any]:
        """Return everything that was counted."""
        return {
            "source": self.name,
            "rows": self.rows,
            "unread": self.unread,
            "layouts": dict(self.layouts),
            "keys": dict(self.keys),
            "roles": dict(self.roles.most_common()),
            "formats": dict(self.formats.most_common()),
            "with_marker": self.with_marker,
            "several_markers": self.several_markers,
            "empty_payloads": self.empty_answers,
            "metadata": {
                key: {
                    "rows": values.rows,
                    "different": None if values.many else len(values.counts),
                    "most_frequent": values.counts.most_common(MOST_VALUES),
                }
                for key, values in self.metadata.items()
            },
            "errors": [{"row": fault.place, "message": fault.message} for fault in self.faults],
        }


def run_inspect(sources: Sequence[Source], markers: Sequence[str], *, as_json: bool) -> int:
    """Count what is in the sources and print it. Exit code 1 where a row could not be read."""
    console = Console()
    contents = [Contents(source.name) for source in sources]
    scans = opened(console, sources, scan_records)
    for source, pairs, found in zip(sources, scans, contents, strict=True):
        with console.phase("inspect", source.name):
            for record, row in told(console, "inspect", pairs):
                found.take(record, row, source.layout, markers)
    if as_json:
        print_json({"sources": [found.as_json() for found in contents]})
    else:
        for found in contents:
            _print(found)
    return ExitCode.FOUND_WANTING if any(found.unread for found in contents) else ExitCode.DONE


def _print(found: Contents) -> None:
    out = Console(stream=sys.stdout)
    table = new_table(found.name, "", "", texts=2)
    table.show_header = False
    for name, text in _facts(found):
        table.add_row(name, Text(text))
    out.rich.print(table)
    if found.metadata:
        out.text("")
        values = new_table("Metadata", "key", "rows", "most frequent values")
        values.columns[2].justify = "left"
        for key, one in found.metadata.items():
            values.add_row(Text(key), str(one.rows), Text(one.listed()))
        out.rich.print(values)
    say_faults(out, found.faults)
    out.text("")


def _facts(found: Contents) -> Iterator[tuple[str, str]]:
    yield "rows", str(found.rows)
    yield "not read", str(found.unread)
    yield "layout", _counted(found.layouts, found.rows)
    if found.keys:
        yield "keys", ", ".join(f"{key} {count}" for key, count in found.keys.items())
    yield "roles", _counted(found.roles, found.rows)
    yield "formats", _counted(found.formats, found.rows)
    yield "with a marker", f"{found.with_marker} ({percent(found.with_marker, found.rows)} %)"
    if found.several_markers:
        yield "several markers", str(found.several_markers)
    yield "empty payloads", str(found.empty_answers)


def _counted(counts: Counter[str], rows: int) -> str:
    common = counts.most_common(2 * MOST_VALUES)
    more = len(counts) - len(common)
    listed = ", ".join(f"{name} {count}" if count < rows else f"{name} (all)" for name, count in common)
    return listed + (f", {more} more" if more > 0 else "")


def _layout(record: Record | None, layout: str) -> str:
    if record is None:
        return "task pack"
    if layout != AUTO:
        return layout
    try:
        return layout_of(record.value)
    except FaultyRowError:
        raise AssertionError("a row was made of this record") from None


def _roles(row: Row) -> str:
    """Return the row's roles in order, a repeated pair of question and answer once with how often."""
    if row.segments:
        return "segments"
    roles = [turn.role for turn in row.messages]
    pairs = 0
    while roles[-2 * (pairs + 1) :][:2] == ["user", "assistant"] and len(roles) >= 2 * (pairs + 1):
        pairs += 1
    if pairs > 1:
        roles = [*roles[: len(roles) - 2 * pairs], f"(user assistant) x {pairs}"]
    return " ".join(roles)
