"""What the data commands print: tables that are readable at 80 columns, and one JSON object."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from rich import box
from rich.table import Table

from tanren.common.console import Console
from tanren.common.data._records import Fault
from tanren.common.task_contract import Row

SAY_EVERY = 5.0  # seconds between two lines that say how far a long reading is
HEAD = 60  # characters of a text that stand for it


def new_table(title: str, *columns: str, texts: int = 1) -> Table:
    """Return a table whose first `texts` columns are text; the others are numbers."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False, show_edge=False
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < texts else "right", overflow="fold")
    return table


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object on standard output."""
    json.dump(values, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def percent(part: float, whole: float) -> str:
    """Return a share in percent with one decimal; '-' of nothing. Only all is 100.0, and only none is 0.0."""
    if not whole:
        return "-"
    shown = 100 * part / whole
    if 0 < part < whole:
        shown = min(max(shown, 0.1), 99.9)
    return f"{shown:.1f}"


def head(text: str, characters: int = HEAD) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join(text[: 4 * characters].split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def told(console: Console, what: str, rows: Iterable[Row | Fault]) -> Iterator[Row | Fault]:
    """Yield the same rows, with a line now and then that says how many there were."""
    said = time.monotonic()
    for number, row in enumerate(rows, start=1):
        if time.monotonic() - said > SAY_EVERY:
            said = time.monotonic()
            console.line(f"{what}: {number - 1} rows")
        yield row
