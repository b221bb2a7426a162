"""Task pack `structured`: write a document in JSON, YAML, TOML, XML or CSV, exactly (README.md)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tanren.common.task_contract import Row, Split, Verdict

from .answers import judge as parse
from .generate import stream
from .options import Options
from .structeval_tasks import read_tasks

__all__ = ["Options", "mode_values", "parse", "read_tasks", "reward", "rows", "score_modes"]

_REWARDS = {Verdict.CORRECT: 1.0, Verdict.WRONG: 0.2, Verdict.UNPARSABLE: 0.0, Verdict.ABSENT: 0.0}
"""Valid but wrong earns a fifth: enough to learn the syntax from, too little to settle for."""


def rows(split: Split, options: Options) -> list[Row]:
    """Return the rows of a split, the same for the same options.

    Raises UserError when the options leave no room for so many different documents.
    """
    count = options.train_rows if split == "train" else options.heldout_rows
    return list(itertools.islice(stream(split, options), count))


def reward(completions: Sequence[str], rows: Sequence[Row]) -> list[float | None]:
    """Return 1 for a correct completion, 0.2 for a valid one, else 0; None where no value is expected."""
    return [
        None if row.expected is None else _REWARDS[parse(completion, row).verdict]
        for completion, row in zip(completions, rows, strict=True)
    ]


def score_modes(completions: Sequence[str], rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return how many answers are valid in the modes lenient, strict and compatible (modes.py)."""
    from .modes import score_modes as scored  # what training does not need is not loaded for it

    return scored(completions, rows)


def mode_values(completions: Sequence[str], rows: Sequence[Row]) -> dict[str, list[float | None]]:
    """Return what each answer is worth in the same modes (modes.py)."""
    from .modes import mode_values as valued

    return valued(completions, rows)
