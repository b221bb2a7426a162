"""Intervals of means over items, where the items' values are no plain yes or no: items are what is drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 10_000
SUM_RESAMPLES = 2_000
"""Of sums: a pack has dozens of metrics, and drawing how often each item comes is ten times the work of drawing means."""
LEAST_ITEMS = 5
"""Below, a bootstrap repeats a handful of numbers, and its interval says nothing."""
# Items times resamples that are in memory at once (8 bytes each).
_AT_ONCE = 4_000_000


def interval_of_mean(values: Sequence[float], lowest: float, highest: float) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval (Efron 1979) of the mean; the same draws for the same number of items.

    Of fewer items than `LEAST_ITEMS`: everything that is possible, from `lowest` to `highest`.
    """
    n = len(values)
    if n < LEAST_ITEMS:
        return lowest, highest
    import numpy as np

    numbers, generator = np.asarray(values, dtype=float), np.random.default_rng(0)
    means: list[float] = []
    while len(means) < RESAMPLES:
        count = min(RESAMPLES - len(means), max(1, _AT_ONCE // n))
        means += numbers[generator.integers(n, size=(count, n))].mean(axis=1).tolist()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def resampled_sums(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums (`SUM_RESAMPLES`, columns) of items (items, columns) that are drawn again; the same draws for as many items."""
    import numpy as np

    n, generator = len(columns), np.random.default_rng(0)
    sums: list[NDArray[np.float64]] = []
    drawn = 0
    while drawn < SUM_RESAMPLES:
        count = min(SUM_RESAMPLES - drawn, max(1, _AT_ONCE // n))
        times = generator.multinomial(n, np.full(n, 1 / n), size=count)  # how often each item is drawn
        sums.append(times @ columns)
        drawn += count
    return np.concatenate(sums)
