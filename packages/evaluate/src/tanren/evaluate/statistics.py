"""Intervals for shares and for paired differences of shares: 95 % unless said otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tanren.evaluate.bootstrap import interval_of_mean

# 97.5 % quantile of the standard normal distribution.
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """A share of `n` items with Wilson's interval."""

    count: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself; NaN of no items."""
        return self.count / self.n if self.n else math.nan


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two shares over the same items, with its interval and McNemar's exact p."""

    value: float
    low: float
    high: float
    n: int
    gained: int  # wrong in the first, right in the second; of several samples: fewer right in the first
    lost: int  # right in the first, wrong in the second; of several samples: more right in the first
    p: float


@dataclass(frozen=True)
class Mean:
    """The mean over `n` items of values from 0 to 1, with its interval."""

    value: float
    n: int
    low: float
    high: float


def wilson(count: int, n: int, z: float = Z95) -> Share:
    """Return Wilson's score interval (Wilson 1927; Newcombe 1998, Statistics in Medicine 17:857, method 3)."""
    if n == 0:
        return Share(0, 0, 0.0, 1.0)
    p = count / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At 0 and n the bound is exactly 0 and 1; rounding must not say otherwise.
    return Share(count, n, 0.0 if count == 0 else middle - half, 1.0 if count == n else middle + half)


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of items' values: Wilson's interval where each is 0 or 1, as of a share, else the bootstrap's."""
    if all(value in (0, 1) for value in values):
        share = wilson(int(sum(values)), len(values))
        return Mean(share.value, share.n, share.low, share.high)
    return Mean(math.fsum(values) / len(values), len(values), *interval_of_mean(values, 0.0, 1.0))


def paired_difference_of_means(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Return mean(second) - mean(first) over the same items, in order, of values from 0 to 1.

    Where each is 0 or 1 see `paired_difference`. Else a paired bootstrap over items, and the exact sign test over the items
    that differ.
    """
    assert len(first) == len(second)
    if all(value in (0, 1) for value in (*first, *second)):
        return paired_difference([bool(value) for value in first], [bool(value) for value in second])
    differences = [b - a for a, b in zip(first, second, strict=True)]
    gained, lost = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    value, n = math.fsum(differences) / len(differences), len(differences)
    return PairedDifference(
        value, *interval_of_mean(differences, -1.0, 1.0), n, gained, lost, mcnemar_exact(gained, lost)
    )


def holm(p: Sequence[float]) -> list[float]:
    """Return p adjusted for so many tests, in their order (Holm 1979, Scandinavian Journal of Statistics 6:65)."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Return share(second) - share(first) over the same items, in order.

    Interval: Newcombe 1998, Statistics in Medicine 17:2635, method 10 (Wilson's intervals, combined with the
    correlation of the pairs). Unlike a bootstrap it keeps its width when all items agree. p: McNemar's exact test.
    """
    assert len(first) == len(second)
    n = len(first)
    both = sum(a and b for a, b in zip(first, second, strict=True))
    gained = sum(b and not a for a, b in zip(first, second, strict=True))
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    if n == 0:
        return PairedDifference(math.nan, -1.0, 1.0, 0, 0, 0, 1.0)
    neither = n - both - gained - lost
    one, two = wilson(both + lost, n), wilson(both + gained, n)
    phi = _phi(both, gained, lost, neither)
    difference = two.value - one.value
    below = _combine(two.value - two.low, one.high - one.value, phi)
    above = _combine(two.high - two.value, one.value - one.low, phi)
    p = mcnemar_exact(gained, lost)
    return PairedDifference(difference, max(-1.0, difference - below), min(1.0, difference + above), n, gained, lost, p)


def mcnemar_exact(gained: int, lost: int) -> float:
    """Return the two-sided exact p of McNemar's test (McNemar 1947): a fair coin over the discordant pairs."""
    discordant = gained + lost
    ways = sum(math.comb(discordant, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * ways / (1 << discordant))  # whole numbers: 2.0**1024 is beyond a float


def _phi(both: int, gained: int, lost: int, neither: int) -> float:
    product = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if product == 0:
        return 0.0
    covariance = float(both * neither - gained * lost)
    if covariance > 0:  # continuity correction of method 10
        covariance = max(covariance - (both + gained + lost + neither) / 2, 0.0)
    return covariance / math.sqrt(product)


def _combine(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))
