"""Repeated prompts, and the leak that a split into rows would cause."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.data._records import Fault
from tanren.common.data._repeats import Repeats, expected_leak, prompt_key, seeded_leak, validation_size
from tanren.common.task_contract import Message, Row, Segment


def _row(prompt: str, answer: str, number: int = 0) -> Row:
    return Row(f"r{number}", (Message("system", "s"), Message("user", prompt)), answer, "all")


def test_what_comes_again_is_counted() -> None:
    found = Repeats(["one", "two"])
    pairs = [("p", "a"), ("p", "b"), ("p", "a"), ("q", "a"), ("t", "x"), ("t", "x")]
    found.take(0, [_row(prompt, answer, number) for number, (prompt, answer) in enumerate(pairs)])
    found.take(1, [_row("q", "a", 6), Fault("f:1", "broken"), _row("u", "y", 7)])
    values = found.as_json(0.5, 1)
    assert (values["rows"], values["prompts"], values["unread"]) == (8, 4, 1)
    assert values["repeated_prompts"] == 4
    assert values["rows_of_repeated_prompts"] == 7
    assert values["repeated_rows"] == 3
    assert (values["conflicting_prompts"], values["rows_of_conflicting_prompts"]) == (1, 3)
    assert values["largest_groups"][0] == {"rows": 3, "answers": 2, "first_row": "r0", "prompt": "p"}
    assert values["prompts_in_common"] == [{"sources": ["one", "two"], "prompts": 1}]
    assert values["sources"] == {"one": 6, "two": 2}


def test_prompts_are_the_same_only_if_all_turns_are() -> None:
    one = Row("a", (Message("user", "p"),), "x", "all")
    assert prompt_key(one) == prompt_key(Row("b", (Message("user", "p"),), "y", "all"))
    assert prompt_key(one) != prompt_key(_row("p", "x"))
    assert prompt_key(one) != prompt_key(Row("a", (Message("system", "p"),), "x", "all"))
    parts = (Segment("p", learned=False), Segment("x", learned=True))
    assert prompt_key(Row("a", (), "x", "all", segments=parts)) != prompt_key(one)


def _leaks(prompts: Sequence[int], held: Sequence[int]) -> float:
    trained = {prompt for index, prompt in enumerate(prompts) if index not in held}
    return sum(prompts[index] in trained for index in held) / len(held)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_the_expected_leak_is_the_mean_over_every_split(sizes: list[int], data: st.DataObject) -> None:
    rows = sum(sizes)
    held = data.draw(st.integers(1, rows))
    prompts = [prompt for prompt, size in enumerate(sizes) for _ in range(size)]
    every = [_leaks(prompts, split) for split in itertools.combinations(range(rows), held)]
    assert expected_leak(sizes, held) == pytest.approx(sum(every) / len(every))
    drawn = seeded_leak(prompts, held, 7)
    assert drawn in every
    assert drawn == seeded_leak(prompts, held, 7)


def test_a_split_holds_out_at_least_one_row_and_none_of_nothing() -> None:
    assert [validation_size(rows, 0.05) for rows in (0, 1, 9, 30, 3933)] == [0, 1, 1, 2, 197]
    assert (expected_leak([], 0), seeded_leak([], 0, 1)) == (0.0, 0.0)
