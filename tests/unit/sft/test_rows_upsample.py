"""Upsampling: exact counts, no draw with replacement, and no rule that does nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row
from tanren.sft.config import DataConfig
from tanren.sft.rows import Selection, listed_source, select_rows
from tanren.sft.rows._repeat import times_of

# 10 rows each: toml by subcategory and pack, xml by subcategory, and 10 with a format in their metadata alone.
KINDS: tuple[dict[str, Any], ...] = (
    {"subcategory": "text_to_toml", "pack": "hard", "minified": True},
    {"subcategory": "json_to_toml", "pack": "easy", "minified": False},
    {"subcategory": "text_to_xml", "pack": "hard"},
    {"format": "toml", "constraint": None},
)
ROWS = [
    Row(f"{kind}:{i}", (Message("user", f"{kind} {i}"),), "a", "all", metadata=metadata)
    for kind, metadata in enumerate(KINDS)
    for i in range(10)
]


def upsample(rules: Mapping[str, float], seed: int = 1, **data: Any) -> Selection:
    config = DataConfig.model_validate({"upsample": rules} | data)
    return select_rows([listed_source("rows", ROWS)], config, seed)


def by_kind(selection: Selection) -> list[int]:
    counts = Counter[str]()
    for _, row, (times,) in selection.training_rows():
        counts[row.id[0]] += times
    return [counts[str(kind)] for kind in range(4)]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"toml": 2}, [20, 20, 10, 10]),
        ({"to_toml": 2, "text": 1.5}, [30, 20, 15, 10]),
        ({"pack:hard": 3}, [30, 10, 30, 10]),
        ({"metadata.format=toml": 2.25}, [10, 10, 10, 22]),
        ({"metadata.format=toml": 0.25}, [10, 10, 10, 2]),
        ({"metadata.minified=true": 2}, [20, 10, 10, 10]),
        ({"metadata.constraint=null": 2}, [10, 10, 10, 20]),
        ({"pack:hard": 2, "toml": 0.5}, [10, 5, 20, 10]),
    ],
)
def test_rules_multiply_and_the_counts_are_exact(rules: dict[str, float], expected: list[int]) -> None:
    selection = upsample(rules)
    assert by_kind(selection) == expected
    assert selection.sizes == (sum(expected),)
    assert selection.lines[-1].split() == ["all", "rows", "40", str(sum(expected))]


def test_the_report_says_for_each_rule_its_rows_before_and_after() -> None:
    told = [line.split() for line in upsample({"to_toml": 2, "pack:hard": 1.5}).lines]
    assert told == [
        ["upsampling", "rule", "factor", "rows", "after"],
        ["to_toml", "2", "20", "50"],
        ["pack:hard", "1.5", "20", "45"],
        ["all", "rows", "40", "75"],
    ]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    weights=st.lists(st.floats(0, 5), min_size=6, max_size=6),
)
def test_each_row_comes_as_often_as_its_weight_says_to_within_one_and_the_sum_is_exact(
    sizes: list[int], weights: list[float]
) -> None:
    weights = weights[: len(sizes)]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    times = times_of(groups, weights, [str(place) for place in range(len(sizes))], "seed")
    exact = sum(size * weight for size, weight in zip(sizes, weights, strict=True))
    assert abs(int(times.sum()) - exact) <= 0.5 + 1e-6
    for group, weight in enumerate(weights):
        assert set(times[groups == group].tolist()) <= {int(weight), int(weight) + 1}


def test_another_seed_draws_other_rows_and_the_same_seed_the_same() -> None:
    one, again, other = ([times for _, _, times in upsample({"toml": 1.5}, seed).training_rows()] for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (
            {"yaml": 2},
            "'yaml' matches no row to train on: 'subcategory' is one of json_to_toml, text_to_toml, text_to_xml",
        ),
        ({"pack:none": 2}, "'pack' is one of easy, hard"),
        (
            {"metadata.fromat=toml": 2},
            "no row has 'fromat'; the rows have constraint, format, minified, pack, subcategory",
        ),
        ({"format=toml": 2}, '"metadata.format=toml" = 2'),
        ({"metadata.format": 2}, '"metadata.format=VALUE" = 2'),
        ({"pack:": 2}, "'pack:' is no rule"),
        ({"toml": 1}, "'toml' = 1 has no effect"),
        ({"pack:hard": 2, "pack:easy": 2, "metadata.format=toml": 2}, "every row to train on has the factor 2"),
    ],
)
def test_a_rule_that_does_nothing_is_an_error(rules: dict[str, float], told: str) -> None:
    with pytest.raises(UserError) as caught:
        upsample(rules)
    assert told in str(caught.value)


def test_validation_rows_are_never_upsampled() -> None:
    selection = upsample({"pack:hard": 2}, validation_share=0.25)
    held = [row.id for _, row in selection.validation_rows()]
    assert len(held) == len(set(held)) == 10
    hard = sum(row.id[0] in "02" for _, row, _ in selection.training_rows())
    assert selection.sizes == (30 + hard,)
    assert not set(held) & {row.id for _, row, _ in selection.training_rows()}
