"""How an answer is read and what it is worth: one definition for training, evaluation and report."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tanren.common.task_contract import Parsed, Row, Verdict

_ORDER = re.compile(r"([0-9]{1,6}) x ([a-z]{1,20})")
MOST_CHARACTERS = 200
"""Longer answers are not read: a completion is hostile text."""

REWARDS = {Verdict.CORRECT: 1.0, Verdict.WRONG: 0.2, Verdict.UNPARSABLE: 0.0, Verdict.ABSENT: 0.0}
"""An order in the right form earns a fifth: enough to learn the form from, too little to settle for."""


def parse(completion: str, row: Row) -> Parsed:
    """Judge one completion: it must be an order and nothing else."""
    text = completion.strip()
    if not text or len(text) > MOST_CHARACTERS:
        return Parsed(Verdict.ABSENT, error=f"found {len(text)} characters, expected an order")
    match = _ORDER.fullmatch(text)
    if not match:
        return Parsed(Verdict.UNPARSABLE, error=f"found {text[:60]!r}, expected an order such as 5 x nails")
    value = {"quantity": int(match[1]), "item": match[2]}
    if value != row.expected:
        return Parsed(Verdict.WRONG, value, f"found {text}, expected {row.reference}")
    return Parsed(Verdict.CORRECT, value)


def reward(completions: Sequence[str], rows: Sequence[Row]) -> list[float | None]:
    """Return a reward for each completion; None where no value is expected: such a completion is left out."""
    return [
        None if row.expected is None else REWARDS[parse(completion, row).verdict]
        for completion, row in zip(completions, rows, strict=True)
    ]
