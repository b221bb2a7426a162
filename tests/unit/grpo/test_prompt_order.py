"""The order of prompts: exactly once an epoch, none twice in a step, and the same after a restart."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tanren.grpo.prompt_order import PromptOrder


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3), st.integers(1, 30))
def test_each_prompt_comes_once_an_epoch_and_none_twice_in_a_step(
    count: int, wanted: int, seed: int, steps: int
) -> None:
    each = min(wanted, count)
    order = PromptOrder(count, seed)
    drawn: list[int] = []
    for step in range(steps):
        taken = order.take(each)
        assert len(set(taken)) == each
        drawn += taken
        assert order.drawn == each * (step + 1)
    times = Counter(drawn)
    assert max(times.values()) - min(times.get(one, 0) for one in range(count)) <= 1


def test_what_is_in_hand_already_is_not_drawn_again() -> None:
    order = PromptOrder(5, seed=1)
    first = order.take(3)
    assert sorted(order.take(2, besides=first)) == sorted(set(range(5)) - set(first))
    assert order.drawn == 5


def test_a_curriculum_goes_from_easy_to_hard_once() -> None:
    difficulties = [3.0, 1.0, 2.0, 1.0, 3.0, 1.0]
    order = PromptOrder(6, seed=1, difficulties=difficulties)
    first, second = order.take(6), order.take(6)
    assert [difficulties[one] for one in first] == sorted(difficulties)
    assert [difficulties[one] for one in second] != sorted(difficulties)
    assert {tuple(PromptOrder(6, seed, difficulties).take(3)) for seed in range(20)} > {
        (1, 3, 5)
    }  # equals in any order


def test_a_state_goes_on_where_it_was() -> None:
    order = PromptOrder(7, seed=3)
    for _ in range(4):
        order.take(5)
    other = PromptOrder(7, seed=3)
    other.take_up(order.state())
    assert [other.take(5) for _ in range(9)] == [order.take(5) for _ in range(9)]
    assert [PromptOrder(7, seed).take(7) for seed in (1, 2)] != [PromptOrder(7, 1).take(7)] * 2
