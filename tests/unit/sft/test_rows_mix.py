"""Mixing, phases and repeats: every count is exact, nothing is drawn twice, the same seed draws the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.data import Source
from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row
from tanren.sft.config import DataConfig
from tanren.sft.rows import RowSource, Selection, _survey, listed_source, rows_by_phase, select_rows
from tanren.sft.rows._draw import largest_remainder, round_together
from tanren.sft.rows._mix import largest_total


def source(label: str, count: int, weight: float = 1.0, **metadata: Any) -> RowSource:
    rows = [
        Row(f"{label}:{i}", (Message("user", f"{label} {i}"),), "a", "all", metadata=metadata) for i in range(count)
    ]
    return RowSource(label, listed_source(label, rows).read, weight)


def select(sources: Sequence[RowSource], seed: int = 1, **data: Any) -> Selection:
    return select_rows(sources, DataConfig.model_validate(data), seed)


def drawn(selection: Selection, phase: int = 0) -> Counter[str]:
    return Counter({row.id: times[phase] for _, row, times in selection.training_rows() if times[phase]})


def by_source(rows: Counter[str]) -> dict[str, int]:
    return dict(Counter(name.partition(":")[0] for name in rows.elements()))


def test_a_long_reading_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_survey, "SAY_EVERY", 0.0)
    select([replace(source("a", 2500), hub=Source("smith/steel"))])
    told = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert told == ["load a from the hub ...", "read a: 1,000 rows so far", "read a: 2,000 rows so far"]


def test_all_takes_every_row_of_every_source_once_in_their_order() -> None:
    selection = select([source("a", 3), source("b", 2)])
    assert [row.id for _, row, _ in selection.training_rows()] == ["a:0", "a:1", "a:2", "b:0", "b:1"]
    assert selection.sizes == (5,)
    assert [line.split() for line in selection.lines] == [
        ["source", "rows", "weight", "asked", "taken"],
        ["a", "3", "1", "all", "3"],
        ["b", "2", "1", "all", "2"],
    ]


# The old system made 333 + 666 = 999 of these (INVENTORY 1.4.1); Hamilton's method gives 667 to the larger remainder.
@pytest.mark.parametrize(
    ("weights", "total", "expected"),
    [((1, 2), 1000, (333, 667)), ((1, 1, 1), 10, (4, 3, 3)), ((0.2, 0.8), 7, (1, 6)), ((5,), 4, (4,))],
)
def test_a_total_is_divided_by_weight_to_the_row(
    weights: tuple[float, ...], total: int, expected: tuple[int, ...]
) -> None:
    sources = [source("abc"[place], 1000, weight) for place, weight in enumerate(weights)]
    selection = select(sources, total=total)
    rows = drawn(selection)
    assert tuple(by_source(rows).values()) == expected
    assert set(rows.values()) == {1}
    assert selection.sizes == (total,)
    assert [line.split()[-2:] for line in selection.lines[1:]] == [[str(count)] * 2 for count in expected]


@given(
    shares=st.lists(st.floats(0.001, 1000), min_size=1, max_size=8),
    total=st.integers(0, 10_000),
)
def test_shares_sum_up_to_the_total_and_are_off_by_less_than_one(shares: list[float], total: int) -> None:
    parts = largest_remainder(shares, total)
    assert sum(parts) == total
    for part, share in zip(parts, shares, strict=True):
        assert abs(part - total * share / sum(shares)) < 1 + 1e-6


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_numbers_rounded_together_sum_up_to_the_rounded_sum(parts: list[float]) -> None:
    rounded = round_together(parts)
    assert abs(sum(rounded) - sum(parts)) <= 0.5 + 1e-6
    assert all(int(part) <= whole <= int(part) + 1 for part, whole in zip(parts, rounded, strict=True))


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    weights=st.lists(st.floats(0.05, 20), min_size=5, max_size=5),
)
def test_the_largest_total_can_be_filled_and_one_more_row_cannot(counts: list[int], weights: list[float]) -> None:
    weights = weights[: len(counts)]
    most = largest_total(weights, counts)
    by_hand = max(
        total
        for total in range(
            int((min(c / w for c, w in zip(counts, weights, strict=True)) + 1 / min(weights)) * sum(weights)) + 2
        )
        if all(part <= count for part, count in zip(largest_remainder(weights, total), counts, strict=True))
    )
    assert most == by_hand


def test_a_source_with_too_few_rows_is_an_error_with_the_largest_possible_total() -> None:
    with pytest.raises(UserError) as caught:
        select([source("a", 1000, 1), source("b", 500, 2)], total=1000)
    assert "b: 667 rows asked, 500 are there" in str(caught.value)
    assert "data.total can be 750 at most" in str(caught.value)
    assert select([source("a", 1000, 1), source("b", 500, 2)], total=750).sizes == (750,)


def test_the_seed_alone_decides_what_is_drawn_of_a_source_whatever_the_others() -> None:
    sources = [source("a", 100), source("b", 100)]
    one = drawn(select(sources, total=40))
    assert one == drawn(select(sources, total=40))
    assert one != drawn(select(sources, seed=2, total=40))
    assert {name for name in one if name[0] == "a"} == set(drawn(select(sources[:1], total=20)))


def test_a_source_that_would_give_no_row_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data.total = 3 leaves no row of b"):
        select([source("a", 100, 100), source("b", 100, 1)], total=3)


def test_a_source_that_changes_between_its_two_readings_is_an_error() -> None:
    rows = [Row(f"r{i}", (Message("user", "q"),), "a", "all") for i in range(3)]
    selection = select([RowSource("a", lambda: iter(rows))])
    rows.append(rows[0])
    with pytest.raises(UserError, match=r"the source a was changed while it was read: 3 rows at first, 4 now"):
        list(selection.training_rows())


# System D's curriculum (INVENTORY 4.2): the positives three times, 96 % of the negatives, in one pass.
def test_phases_take_their_sources_by_factor_and_each_is_counted() -> None:
    phases = [{"sources": ["dummies"]}, {"sources": {"hawks": 3, "dummies": 0.96}, "epochs": 1.5}]
    selection = select([source("hawks", 262), source("dummies", 1000)], phases=phases)
    assert selection.sizes == (1000, 262 * 3 + 960)
    assert by_source(drawn(selection, 0)) == {"dummies": 1000}
    second = drawn(selection, 1)
    assert by_source(second) == {"hawks": 786, "dummies": 960}
    assert {second[name] for name in second if name.startswith("hawks")} == {3}
    assert {second[name] for name in second if name.startswith("dummies")} == {1}
    assert selection.lines[-1] == "phase 2: 1746 rows a pass (hawks 786, dummies 960), 1.5 passes"


@pytest.mark.parametrize(
    ("phases", "told"),
    [
        ([{"sources": ["a"]}], "no phase names b"),
        ([{"sources": ["a", "bb"]}], "'bb' is no source: did you mean 'b'?"),
        ([{"sources": ["a", "b", "a"]}], "named twice"),
        ([{"sources": []}], "found no name"),
        ([{"sources": {"a": 0.0, "b": 1.0}}], "the factor of a is 0.0"),
        ([{"sources": {"a": 2, "b": 2}}], "the same as more passes"),
        ([{"sources": {"a": 0.001, "b": 0.001}}], "leave no row"),
    ],
)
def test_a_phase_that_cannot_be_had_is_told(phases: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(UserError) as caught:
        select([source("a", 10), source("b", 10)], phases=phases)
    assert told in str(caught.value)


def test_phases_are_as_long_as_their_passes_or_their_share_of_the_steps() -> None:
    config = DataConfig.model_validate({"phases": [{"sources": ["a"], "epochs": 2}, {"sources": ["b"]}]})
    assert rows_by_phase(config.phases, (10, 7), epochs=1, max_steps=0, rows_per_step=4) == [20, 7]
    config = DataConfig.model_validate({"phases": [{"sources": ["a"], "share": 0.3}, {"sources": ["b"], "share": 0.7}]})
    assert rows_by_phase(config.phases, (10, 7), epochs=1, max_steps=5, rows_per_step=4) == [8, 12]
    assert rows_by_phase((), (10,), epochs=1.5, max_steps=0, rows_per_step=4) == [15]
    assert rows_by_phase((), (10,), epochs=1.5, max_steps=5, rows_per_step=4) == [20]
