"""Intervals and tests against published numbers and independent computations."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.evaluate.statistics import PairedDifference, mcnemar_exact, paired_difference, wilson

CELLS = st.tuples(*[st.integers(0, 40)] * 4)


def _paired(both: int, gained: int, lost: int, neither: int) -> PairedDifference:
    first = [True] * both + [False] * gained + [True] * lost + [False] * neither
    second = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return paired_difference(first, second)


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_gives_the_published_numbers(count: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    share = wilson(count, n)
    assert (round(share.low, 4), round(share.high, 4)) == (low, high)
    assert share.value == count / n


@given(n=st.integers(1, 10_000), data=st.data())
def test_wilsons_interval_holds_the_share_and_stays_within_0_and_1(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    share, mirrored = wilson(count, n), wilson(n - count, n)
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert share.low < share.high
    assert math.isclose(share.low, 1 - mirrored.high, abs_tol=1e-12)
    assert wilson(2 * count, 2 * n).high - wilson(2 * count, 2 * n).low < share.high - share.low


def test_no_items_say_nothing() -> None:
    share, difference = wilson(0, 0), paired_difference([], [])
    assert math.isnan(share.value)
    assert (share.low, share.high) == (0, 1)
    assert math.isnan(difference.value)
    assert (difference.low, difference.high, difference.p) == (-1, 1, 1)


@given(CELLS.filter(any))
def test_a_paired_difference_lies_within_its_interval_and_turns_round_with_the_candidates(
    cells: tuple[int, int, int, int],
) -> None:
    both, gained, lost, neither = cells
    found, swapped = _paired(*cells), _paired(both, lost, gained, neither)
    n = sum(cells)
    assert found.value == pytest.approx((gained - lost) / n, abs=1e-12)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (found.n, found.gained, found.lost) == (n, gained, lost)
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx(
        (-found.value, -found.high, -found.low), abs=1e-12
    )
    assert swapped.p == found.p


def test_a_paired_interval_gives_the_published_numbers() -> None:
    """Newcombe 1998, Statistics in Medicine 17:2635, method 10: 36, 12, 2 and 0 of 50 pairs."""
    found = _paired(36, 12, 2, 0)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0569, 0.3404)


@pytest.mark.parametrize(
    "cells", [(30, 40, 10, 20), (60, 25, 5, 110), (100, 30, 30, 40), (20, 60, 4, 116), (150, 12, 9, 29)]
)
def test_a_paired_interval_agrees_with_a_bootstrap_of_the_pairs(cells: tuple[int, int, int, int]) -> None:
    n = sum(cells)
    draws = np.random.default_rng(1).multinomial(n, np.array(cells) / n, size=200_000)
    low, high = np.quantile((draws[:, 1] - draws[:, 2]) / n, [0.025, 0.975])
    found = _paired(*cells)
    # The score interval pulls towards 0 by about z^2/n, and the bootstrap moves in steps of 1/n.
    assert (found.low, found.high) == pytest.approx((low, high), abs=5 / n)


@pytest.mark.parametrize("cells", [(30, 12, 5, 13), (2, 9, 1, 48), (50, 4, 1, 5), (15, 15, 15, 15)])
def test_a_paired_interval_covers_the_truth_as_often_as_it_says(cells: tuple[int, int, int, int]) -> None:
    n, truth = sum(cells), (cells[1] - cells[2]) / sum(cells)
    draws = np.random.default_rng(2).multinomial(n, np.array(cells) / n, size=3_000)
    intervals = [_paired(*(int(cell) for cell in draw)) for draw in draws]
    covered = sum(interval.low <= truth <= interval.high for interval in intervals) / len(intervals)
    assert 0.935 <= covered <= 0.99


def test_an_interval_keeps_its_width_when_all_items_agree() -> None:
    found = _paired(20, 0, 0, 0)
    assert (found.value, found.p) == (0, 1)
    assert found.low < -0.1
    assert found.high > 0.1


@given(gained=st.integers(0, 60), lost=st.integers(0, 60))
def test_mcnemars_p_is_that_of_a_fair_coin(gained: int, lost: int) -> None:
    """Both tails of the coin, added one by one in exact fractions."""
    n = gained + lost
    distance = abs(Fraction(gained) - Fraction(n, 2))
    tails = sum(
        (Fraction(math.comb(n, heads), 2**n) for heads in range(n + 1) if abs(heads - Fraction(n, 2)) >= distance),
        Fraction(0),
    )
    assert mcnemar_exact(gained, lost) == pytest.approx(float(tails), rel=1e-12)


@pytest.mark.parametrize(("gained", "lost", "p"), [(5, 0, 1 / 16), (0, 6, 1 / 32), (9, 1, 22 / 1024), (3, 3, 1.0)])
def test_mcnemars_p_of_a_few_pairs_by_hand(gained: int, lost: int, p: float) -> None:
    assert mcnemar_exact(gained, lost) == pytest.approx(p, rel=1e-12)


def test_a_thousand_discordant_pairs_do_not_overflow() -> None:
    assert mcnemar_exact(900, 1100) == pytest.approx(
        np.float64(8.45708953550381e-06), rel=1e-9
    )  # scipy.stats.binomtest(900, 2000)
