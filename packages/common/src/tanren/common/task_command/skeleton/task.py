"""Task pack `orders_skeleton`: find the order in a note (README.md)."""

from __future__ import annotations

import itertools

from pydantic import Field

from tanren.common.task_contract import Row, Split, TaskOptions

from .generate import stream
from .judge import parse, reward

__all__ = ["Options", "parse", "reward", "rows"]


class Options(TaskOptions):
    """What rows the pack makes. More rows begin with the same rows."""

    seed: int = 0
    """Seed of all draws. Which orders are held out does not depend on it."""

    train_rows: int = Field(default=400, ge=0)
    """Rows of the split `train`."""

    heldout_rows: int = Field(default=100, ge=0)
    """Rows of the split `heldout`."""


def rows(split: Split, options: Options) -> list[Row]:
    """Return the rows of a split, the same for the same options."""
    count = options.train_rows if split == "train" else options.heldout_rows
    return list(itertools.islice(stream(split, options.seed), count))
