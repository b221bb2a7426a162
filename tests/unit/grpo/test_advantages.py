"""Advantages against sums worked out with fractions: exact, and independent of the code under test."""

from __future__ import annotations

from fractions import Fraction
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.grpo.advantages import LEAST_DEVIATION, advantages_of

GROUPS: list[list[float | None]] = [
    [1.0, 0.0, None, 0.5],
    [0.2, 0.2, 0.2, 0.2],
    [None, None, 0.7, None],
    [None] * 4,
    [-3.0, 9.0, 0.25, None],
]


def _mean(values: list[Fraction]) -> Fraction:
    return sum(values, Fraction(0)) / len(values)


def _deviation(values: list[Fraction]) -> float:
    mean = _mean(values)
    return sqrt(sum(((value - mean) ** 2 for value in values), Fraction(0)) / (len(values) - 1))


def _expected(groups: list[list[float | None]], scale: str) -> list[list[float | None]]:
    exact = [[None if one is None else Fraction(one) for one in group] for group in groups]
    every = [one for group in exact for one in group if one is not None]
    found: list[list[float | None]] = []
    for group in exact:
        left = [one for one in group if one is not None]
        divisor = 1.0
        if scale == "group" and len(left) > 1:
            divisor = _deviation(left) + LEAST_DEVIATION
        if scale == "batch":
            divisor = _deviation(every) + LEAST_DEVIATION
        found.append([None if one is None else float(one - _mean(left)) / divisor for one in group])
    return found


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_an_excluded_completion_is_in_no_mean_and_no_deviation(scale: str) -> None:
    found = advantages_of(GROUPS, scale)  # type: ignore[arg-type]
    for got, expected in zip(found.values, _expected(GROUPS, scale), strict=True):
        assert [one is None for one in got] == [one is None for one in expected]
        assert [one for one in got if one is not None] == pytest.approx(
            [one for one in expected if one is not None], rel=1e-12, abs=1e-15
        )


def test_numbers_by_hand() -> None:
    assert advantages_of([[1.0, 0.0, None, 0.5]], "none").values == [[0.5, -0.5, None, 0.0]]
    # The deviation of 1, 0 and 0.5 with n - 1 below the line is 0.5.
    scaled = advantages_of([[1.0, 0.0, None, 0.5]], "group").values[0]
    assert scaled[:2] == pytest.approx([0.5 / 0.5001, -0.5 / 0.5001])


def test_groups_that_teach_nothing_are_counted_and_told() -> None:
    found = advantages_of(GROUPS, "none")
    assert (found.equal, found.alone, found.empty, found.without_signal) == (1, 1, 1, 3)
    assert found.sentence() == (
        "no advantage in some groups: all rewards of 1 of 5 groups are equal and 1 of 5 groups have one reward alone and "
        "1 of 5 groups have no reward"
    )
    flat = advantages_of([[0.1] * 3, [0.3] * 3], "group")
    assert flat.values == [[0.0] * 3] * 2  # although the mean of three times 0.1 is not 0.1
    assert flat.sentence() == "loss 0 because all rewards of 2 of 2 groups are equal"
    assert advantages_of([[0.0, 1.0]], "none").sentence() == ""


rewards = st.one_of(st.none(), st.floats(-1e3, 1e3))


@given(
    st.lists(st.lists(rewards, min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from(["none", "group", "batch"]),
)
def test_advantages_of_a_group_add_up_to_nothing(groups: list[list[float | None]], scale: str) -> None:
    found = advantages_of(groups, scale)  # type: ignore[arg-type]
    for group, values in zip(groups, found.values, strict=True):
        kept = [one for one in values if one is not None]
        assert len(kept) == sum(one is not None for one in group)
        assert sum(kept) == pytest.approx(0, abs=1e-9 * (1 + max(map(abs, kept), default=0)) * 4)
