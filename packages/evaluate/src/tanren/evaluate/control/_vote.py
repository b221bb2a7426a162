"""One decision of several samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vote:
    """What samples decided together."""

    action: int | None
    """None: no sample had an action."""
    counts: dict[int, int]
    """Votes by action, the smallest action first."""


def majority(actions: Sequence[int | None]) -> Vote:
    """Return the action that most samples have; of those that tie the smallest.

    A sample without an action does not vote. One valid sample is enough for a decision, none is not.
    """
    counts = dict(sorted(Counter(action for action in actions if action is not None).items()))
    most = max(counts.values(), default=0)
    return Vote(next((action for action, count in counts.items() if count == most), None), counts)
