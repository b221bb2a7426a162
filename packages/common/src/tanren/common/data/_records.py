"""What the readers of files yield: a record or a fault, each with its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_ROW_BYTES = 64 << 20
"""Longest row of a text file, in bytes. The largest known rows have 20 KB; a longer one is a file without line ends."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row as a file has it."""

    number: int
    """The line of a JSONL file; counted from 1 in the others."""
    place: str
    value: Any
    columnar: bool = False
    """Out of columns (parquet, a hub dataset): a key that the row lacks is there, with nothing in it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What could not be read, and where."""

    place: str
    message: str
    rows: int = 1
    """How many rows it stands for; 0 where nobody can know: a file that ends too early, or that is none."""

    def __str__(self) -> str:
        """Return the place and what is wrong there."""
        return f"{self.place}: {self.message}"


class FaultyRowError(Exception):
    """What is wrong with a row."""


def kind_of(value: Any) -> str:
    """Return what a value is, in words."""
    if value is None:
        return "nothing"
    names = {
        list: "a list",
        dict: "an object",
        str: "text",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    text = names.get(type(value), type(value).__name__)
    return f"an empty {text.split()[-1]}" if value in ([], {}, "") else text
