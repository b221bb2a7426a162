"""pass@k, the majority vote, and scores of several samples, against counting by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.errors import UserError
from tanren.common.task_contract import Parsed, Row, Verdict
from tanren.evaluate.predictions import Prediction, join
from tanren.evaluate.samples import by_value, majority, pass_at, sizes
from tanren.evaluate.scoring import compare, judge, score

Predict = Callable[..., Prediction]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_all_choices_of_k_samples_that_hold_a_correct_one(
    samples: list[bool], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(samples)))
    chosen = list(combinations(samples, k))
    assert pass_at(k, len(samples), sum(samples)) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_pass_at_k_of_many_samples_is_exact() -> None:
    # 1 - 90!/(40! 50!) * 50! 50!/100!, by a product that needs no large numbers
    product = 1.0
    for index in range(50):
        product *= (90 - index) / (100 - index)
    assert pass_at(50, 100, 10) == pytest.approx(1 - product, rel=1e-12)
    assert pass_at(1, 200, 50) == 0.25
    assert sizes(1) == [1]
    assert sizes(10) == [1, 2, 4, 8, 10]
    assert sizes(16) == [1, 2, 4, 8, 16]


def _parsed(value: object) -> Parsed:
    return Parsed(Verdict.ABSENT) if value is None else Parsed(Verdict.CORRECT if value == 1 else Verdict.WRONG, value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 2], 2),
        ([2, 1, 1, 2], 2),  # a tie: what came first
        ([None, None, 1], 1),  # what does not parse does not vote
        ([None, None], None),
        ([3, {"a": 1, "b": 2}, {"b": 2.0, "a": 1}], {"a": 1, "b": 2}),  # the order of keys is no difference
        ([{1: "x", "1": None}, [True], [1], {"1": None, 1: "x"}], {1: "x", "1": None}),  # keys as YAML has them
    ],
)
def test_the_majority_is_of_parsed_values(rows: list[Row], values: list[object], expected: object) -> None:
    assert majority([_parsed(value) for value in values], rows[0], by_value).value == expected


def test_a_pack_may_say_which_answers_are_the_same(rows: list[Row]) -> None:
    voted = majority([_parsed(value) for value in (2, 10, 11)], rows[0], lambda parsed, row: str(parsed.value)[0])
    assert voted.value == 10


def _parse(completion: str, row: Row) -> Parsed:
    return (
        Parsed(Verdict.CORRECT if completion == row.expected else Verdict.WRONG, completion)
        if completion
        else Parsed(Verdict.ABSENT)
    )


@pytest.fixture
def drawn(rows: list[Row], predict: Predict) -> list[Prediction]:
    """Four items, three samples each: correct are 3, 2, 1, 0; the second is outvoted by nobody, the third is."""
    written = {"ash": ["ASH"] * 3, "oak": ["OAK", "x", "OAK"], "birch": ["BIRCH", "y", "y"], "maple": ["", "", "z"]}
    found = []
    for identity, texts in written.items():
        for sample, text in enumerate(texts):
            one = predict(identity, text)
            found.append(Prediction(**{**vars(one), "sample": sample}))
    return found[::-1]  # the order in a file does not matter


def test_scores_of_samples_are_means_over_items(rows: list[Row], drawn: list[Prediction]) -> None:
    scores = score(judge(rows, drawn, _parse, "p.jsonl"))
    pooled = scores["by_group"]["all"]
    assert (scores["samples"], scores["n"], pooled["correct"]["n"]) == (3, 4, 4)
    assert pooled["correct"]["value"] == pytest.approx((3 + 2 + 1 + 0) / 12)
    assert pooled["valid"]["value"] == pytest.approx(10 / 12)
    assert pooled["verdicts"] == {"correct": 6, "wrong": 4, "absent": 2}
    assert list(pooled["pass_at"]) == ["1", "2", "3"]
    assert pooled["pass_at"]["1"]["value"] == pytest.approx(pooled["correct"]["value"])
    assert pooled["pass_at"]["2"]["value"] == pytest.approx((1 + 1 + (1 - comb(2, 2) / comb(3, 2)) + 0) / 4)
    assert pooled["pass_at"]["3"] == {
        "value": 0.75,
        "n": 4,
        "low": pytest.approx(0.3006, abs=1e-4),
        "high": pytest.approx(0.9544, abs=1e-4),
    }
    assert pooled["majority"]["correct"]["count"] == 2
    assert pooled["majority"]["valid"]["count"] == 4


def test_a_comparison_of_samples_is_paired_by_item(rows: list[Row], drawn: list[Prediction], predict: Predict) -> None:
    right = [
        Prediction(**{**vars(predict(row.id, row.reference)), "sample": sample}) for row in rows for sample in range(3)
    ]
    first, second = (judge(rows, made, _parse, "p.jsonl") for made in (drawn, right))
    difference = compare(first, second)["all"]["correct"]
    assert difference["value"] == pytest.approx(0.5)
    assert (difference["gained"], difference["lost"], difference["p"]) == (3, 0, 0.25)
    assert (difference["low"], difference["high"]) == (-1, 1)  # four items say nothing


def test_a_missing_and_a_doubled_sample_are_told(rows: list[Row], drawn: list[Prediction]) -> None:
    assert [(row.id, one.sample) for row, one in join(rows, drawn, "p")][:4] == [
        ("ash", 0),
        ("ash", 1),
        ("ash", 2),
        ("oak", 0),
    ]
    with pytest.raises(UserError, match=r"1 missing ids \(ash sample 2\); 1 doubled ids \(ash sample 1\)"):
        join(rows, [*drawn[:-3], *drawn[-2:], drawn[-2]], "p")
