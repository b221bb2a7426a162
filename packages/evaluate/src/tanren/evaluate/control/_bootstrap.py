"""Intervals over weeks: weeks are what is drawn again, as their decisions hang together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST_WEEKS = 5
"""Below, a bootstrap repeats a handful of numbers, and its interval says nothing."""
SOME_WEEKS = 20
"""Below, the percentile bootstrap covers less than it says (of 7 normal values about 88 % in place of 95 %)."""
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A number over weeks with its 95 % percentile bootstrap interval (Efron 1979); None where there are too few."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def interval_of_mean(values: Sequence[float]) -> Interval:
    """Return the mean over weeks."""
    return _interval(values, [1.0] * len(values), positive=False)


def interval_of_share(parts: Sequence[float], wholes: Sequence[float]) -> Interval:
    """Return sum(parts) / sum(wholes) over weeks; no value where a sum is not positive: such a share means nothing."""
    return _interval(parts, wholes, positive=True)


def note_on(weeks: int) -> str | None:
    """Return what is to be said of intervals over so many weeks."""
    if weeks < LEAST_WEEKS:
        return f"{weeks} week{'s' * (weeks != 1)}: too few for an interval; at least {LEAST_WEEKS} are needed"
    if weeks < SOME_WEEKS:
        return f"{weeks} weeks: few for a bootstrap; its intervals are too narrow below about {SOME_WEEKS}"
    return None


def _interval(parts: Sequence[float], wholes: Sequence[float], *, positive: bool) -> Interval:
    n = len(parts)
    if positive and (sum(parts) <= 0 or sum(wholes) <= 0):
        return Interval(None, None, None, n)
    value = sum(parts) / sum(wholes)
    if n < LEAST_WEEKS:
        return Interval(value, None, None, n)
    import numpy as np

    drawn = np.random.default_rng(0).integers(n, size=(_RESAMPLES, n))  # the same weeks for whatever is compared
    above, below = np.asarray(parts)[drawn].sum(axis=1), np.asarray(wholes)[drawn].sum(axis=1)
    if (below <= 0).any():
        return Interval(value, None, None, n)
    low, high = np.quantile(above / below, [0.025, 0.975])
    return Interval(value, float(low), float(high), n)
