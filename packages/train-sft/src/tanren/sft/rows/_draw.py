"""Exact shares, and draws without replacement that depend on the seed and on what is drawn from, on nothing else."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence


def round_together(parts: Sequence[float]) -> list[int]:
    """Round each number down or up, so that the sum is the rounded sum: up where most was cut off; of equals the first."""
    rounded = [math.floor(part) for part in parts]
    missing = round(math.fsum(parts)) - sum(rounded)
    by_remainder = sorted(range(len(parts)), key=lambda place: rounded[place] - parts[place])
    for place in by_remainder[:missing]:
        rounded[place] += 1
    return rounded


def largest_remainder(shares: Sequence[float], total: int) -> list[int]:
    """Divide `total` in proportion to `shares`, so that the sum is exact (Hamilton's method)."""
    whole = math.fsum(shares)
    return round_together([total * share / whole for share in shares])


def shuffled(count: int, key: str) -> array[int]:
    """Return the numbers below `count` in an order that the key decides."""
    order = array("I", range(count))
    random.Random(key).shuffle(order)  # noqa: S311 (a draw, not a secret)
    return order
