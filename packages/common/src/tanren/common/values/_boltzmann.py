"""The Boltzmann reward of a whole value file: computed, held against the file's own columns, written into it."""

from __future__ import annotations

import codecs
import csv
import io
from dataclasses import dataclass

from tanren.common.data import MOST_FAULTS
from tanren.common.errors import FoundWantingError, UserError
from tanren.common.run import write_atomically
from tanren.common.values._formulas import boltzmann
from tanren.common.values._table import ValueTable, finite_number

REWARD_PREFIX = "reward_action_"
"""Begins the name of a reward column; the action's index follows it."""
TOLERANCE = 1e-9
"""Rewards lie in [0, 1]; float64 computes them to 1e-15, and a file with ten digits has them to 1e-10."""


@dataclass(frozen=True)
class Comparison:
    """The rewards of every row, and how far the file's own are from them."""

    rewards: tuple[tuple[float, ...], ...]
    """A reward for each row and action."""
    max_abs_difference: float | None
    """None where the file has no reward columns."""
    worst: str
    """File, line and column of the largest difference."""


def compare_rewards(table: ValueTable, tau: float) -> Comparison:
    """Compute the Boltzmann rewards of a table, and compare them with its reward columns if it has them.

    Raises UserError where some reward columns are there and others not, and for a reward that is no number.
    """
    rewards = tuple(boltzmann(row.values, tau) for row in table.rows)
    names = reward_columns(table)
    there = [name for name in names if name in table.columns]
    if not there:
        return Comparison(rewards, None, "")
    if len(there) < len(names):
        missing = sorted(set(names) - set(there))
        raise UserError(
            f"{table.path}: found the reward columns {', '.join(there)} without {', '.join(missing)}: remove them, or add "
            "the others"
        )
    largest, worst, faults = 0.0, "", []
    for row, computed in zip(table.rows, rewards, strict=True):
        for name, reward in zip(names, computed, strict=True):
            stored = finite_number(row.cells[name])
            if stored is None:
                faults.append(f"{row.place}: column {name}: found {row.cells[name]!r}, expected a finite number")
            elif abs(stored - reward) > largest:
                largest, worst = abs(stored - reward), f"{row.place}: column {name}"
    if faults:
        raise UserError("\n".join(faults[:MOST_FAULTS]) + "\nremove the reward columns; then --write makes them again")
    return Comparison(rewards, largest, worst)


def reward_columns(table: ValueTable) -> list[str]:
    """Return the names of the reward columns."""
    return [f"{REWARD_PREFIX}{action}" for action in range(table.actions)]


def write_rewards(table: ValueTable, found: Comparison, *, overwrite: bool) -> bool:
    """Add the reward columns to the value file, whole or not at all; return whether anything was written.

    A file that has them within TOLERANCE is left as it is. All other cells keep their text. Raises FoundWantingError for
    reward columns that differ, unless they may be overwritten.
    """
    if found.max_abs_difference is not None:
        if found.max_abs_difference <= TOLERANCE:
            return False
        if not overwrite:
            raise FoundWantingError(
                f"{found.worst}: the file's reward columns differ from the computed ones by up to "
                f"{found.max_abs_difference:.3g}, and are left as they are; is tau the one they were made with? "
                "--overwrite replaces them"
            )
    names = reward_columns(table)
    header = [*table.columns, *(name for name in names if name not in table.columns)]
    rows = [
        [
            (dict(row.cells) | {name: repr(reward) for name, reward in zip(names, rewards, strict=True)})[name]
            for name in header
        ]
        for row, rewards in zip(table.rows, found.rewards, strict=True)
    ]
    with table.path.open("rb") as file:
        first = file.readline()
    text = io.StringIO(newline="")
    text.write("\ufeff" if first.startswith(codecs.BOM_UTF8) else "")
    csv.writer(text, lineterminator="\r\n" if first.endswith(b"\r\n") else "\n").writerows([header, *rows])
    write_atomically(table.path, text.getvalue())
    return True
