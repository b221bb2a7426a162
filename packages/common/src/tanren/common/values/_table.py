"""Reads a value file: a CSV with one row for each state and one column for the value of each action there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tanren.common.data import MOST_FAULTS, Fault, read_csv
from tanren.common.errors import UserError
from tanren.common.values._formulas import best_actions

PREFIX = "q_action_"
"""Begins the name of a value column; the action's index follows it."""
ID_COLUMN = "id"
"""Names a row. Without this column a row is named by its line: `file.csv:7`."""
BEST_COLUMN = "optimal_action"
"""May repeat the best action; it is held against the values then."""
_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
# Of the best action's value: files whose columns were written with six digits still name the right action.
_SAME_VALUE = 1e-6


@dataclass(frozen=True, slots=True)
class ValueRow:
    """A state: the value of each action (finite, to be maximised), and all cells as the file has them."""

    id: str
    place: str
    """File and line."""
    values: tuple[float, ...]
    cells: Mapping[str, str]


@dataclass(frozen=True)
class ValueTable:
    """A value file that was read to its end without a fault."""

    path: Path
    columns: tuple[str, ...]
    """All columns, in the file's order."""
    prefix: str
    rows: tuple[ValueRow, ...]

    @property
    def actions(self) -> int:
        """How many actions there are: 0 to actions - 1."""
        return len(self.rows[0].values)


def read_values(path: Path, prefix: str = PREFIX) -> ValueTable:
    """Read a value file whole.

    Raises UserError with file, line and column of the first MOST_FAULTS faults: a value column that is missing or out of
    turn; a value that is no finite number; an id that is empty or comes twice; an `optimal_action` that is no action, or
    not the one of the highest value; a line that is not CSV, or has more or fewer cells than the first.
    """
    faults: list[Fault] = []
    rows: list[ValueRow] = []
    columns: tuple[str, ...] = ()
    lines: dict[str, str] = {}
    for record in _records(path):
        if isinstance(record, Fault):
            faults.append(record)
            continue
        place, cells = record
        if not columns:
            columns = tuple(cells)
            actions = _actions(columns, prefix, path)
        values = [finite_number(cells[f"{prefix}{action}"]) for action in range(actions)]
        wrong = [
            Fault(
                place,
                f"column {prefix}{action}: found {cells[f'{prefix}{action}']!r}, expected a finite number; "
                "correct it, or remove the row",
            )
            for action, value in enumerate(values)
            if value is None
        ]
        row = ValueRow(_id(cells, path, place), place, tuple(value for value in values if value is not None), cells)
        wrong += _wrong_id(row, lines)
        if len(row.values) == actions:
            wrong += _wrong_best(row, prefix)
        faults += wrong
        if not wrong:
            rows.append(row)
    if faults:
        more = f"\n... and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        raise UserError("\n".join(str(fault) for fault in faults[:MOST_FAULTS]) + more)
    if not rows:
        raise UserError(f"{path}: holds no row; expected a line of column names and one line for each state")
    return ValueTable(path, columns, prefix, tuple(rows))


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, str]] | Fault]:
    try:
        with path.open("rb") as file:
            for record in read_csv(file, str(path)):
                yield record if isinstance(record, Fault) else (record.place, record.value)
    except FileNotFoundError:
        raise UserError(f"the value file cannot be read: no file {path}; check the path") from None
    except OSError as error:
        raise UserError(f"the value file cannot be read: {path}: {error.strerror}; expected a CSV file") from None


def _actions(columns: tuple[str, ...], prefix: str, path: Path) -> int:
    """Return the number of actions. Raises UserError unless the columns are `prefix0`, `prefix1`, ..., at least two."""
    found = [name.removeprefix(prefix) for name in columns if name.startswith(prefix)]
    strange = [name for name in found if not _INDEX.fullmatch(name)]
    if strange:
        raise UserError(
            f"{path}: the column {prefix}{strange[0]} has no action's index behind {prefix!r}; expected {prefix}0, "
            f"{prefix}1, ...: rename it, or name another prefix"
        )
    missing = [index for index in range(max(len(found), 2)) if str(index) not in found]
    if missing:
        there = ", ".join(prefix + name for name in found) or f"none that begins with {prefix!r} among {list(columns)}"
        raise UserError(
            f"{path}: the value column {prefix}{missing[0]} is missing: found {there}; expected one column for each "
            f"action, from {prefix}0 on without a gap, at least two"
        )
    return len(found)


def finite_number(text: str) -> float | None:
    """Return a finite number, None for all else. Python's own `float` also reads NaN, Infinity and 1_000."""
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _id(cells: Mapping[str, str], path: Path, place: str) -> str:
    return cells[ID_COLUMN] if ID_COLUMN in cells else f"{path.name}:{place.rpartition(':')[2]}"


def _wrong_id(row: ValueRow, lines: dict[str, str]) -> list[Fault]:
    if not row.id.strip():
        return [Fault(row.place, f"column {ID_COLUMN}: found nothing, expected a name that no other row has")]
    if row.id in lines:
        message = (
            f"column {ID_COLUMN}: {row.id!r} is the row at {lines[row.id]} already; ids must be unique: rename one"
        )
        return [Fault(row.place, message)]
    lines[row.id] = row.place
    return []


def _wrong_best(row: ValueRow, prefix: str) -> list[Fault]:
    text = row.cells.get(BEST_COLUMN)
    if text is None:
        return []
    last = len(row.values) - 1
    if not _INDEX.fullmatch(text.strip()) or int(text) > last:
        return [
            Fault(row.place, f"column {BEST_COLUMN}: found {text!r}, expected an action from 0 to {last}; correct it")
        ]
    action, best = int(text), best_actions(row.values)
    highest = row.values[best[0]]
    if row.values[action] >= highest - _SAME_VALUE * max(1.0, abs(highest)):
        return []
    lowest = (
        " (its value is the lowest: are these costs? turn their sign)" if row.values[action] == min(row.values) else ""
    )
    return [
        Fault(
            row.place,
            f"column {BEST_COLUMN}: found {action} with the value {row.values[action]!r}{lowest}, but {prefix}{best[0]} is "
            f"higher: {highest!r}; values are to be maximised: correct the columns, or remove {BEST_COLUMN}",
        )
    ]
