"""Task pack `extraction`: offenders, places and police departments of an article as one JSON object (README.md)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tanren.common.task_contract import Row, Split

from .generate import stream
from .judging import measures, mistakes, parse, reward_of
from .options import Options
from .records import read_tasks

__all__ = ["Options", "measures", "mistakes", "parse", "read_tasks", "reward", "rows"]


def rows(split: Split, options: Options) -> list[Row]:
    """Return the rows of a split, the same for the same options."""
    count = options.train_rows if split == "train" else options.heldout_rows
    return list(itertools.islice(stream(split, options), count))


def reward(completions: Sequence[str], rows: Sequence[Row]) -> list[float | None]:
    """Return from 0 (no JSON) to 1 (all fields exact) for each completion; None where no value is expected."""
    return [
        None if row.expected is None else reward_of(completion, row)
        for completion, row in zip(completions, rows, strict=True)
    ]
