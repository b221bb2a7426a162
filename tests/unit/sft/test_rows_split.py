"""The split by prompt: no prompt on both sides, the share reached from below, every row on one side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row, Segment
from tanren.sft.config import DataConfig
from tanren.sft.rows import Selection, listed_source, select_rows


def rows_of(prompts: Sequence[int]) -> list[Row]:
    return [Row(f"r{i}", (Message("user", f"q{prompt}"),), f"a{i}", "all") for i, prompt in enumerate(prompts)]


def split(rows: Sequence[Row], seed: int = 1, **data: Any) -> Selection:
    return select_rows([listed_source("rows", rows)], DataConfig.model_validate(data), seed)


@given(prompts=st.lists(st.integers(0, 15), min_size=10, max_size=80), share=st.floats(0.1, 0.5))
def test_rows_of_one_prompt_stay_on_one_side_and_none_is_lost(prompts: list[int], share: float) -> None:
    rows = rows_of(prompts)
    if min(prompts.count(prompt) for prompt in prompts) > round(share * len(rows)):
        with pytest.raises(UserError, match="cannot be kept"):
            split(rows, validation_share=share)
        return
    selection = split(rows, validation_share=share)
    training = [row for _, row, _ in selection.training_rows()]
    held = [row for _, row in selection.validation_rows()]
    assert sorted(row.id for row in [*training, *held]) == sorted(row.id for row in rows)
    assert not {row.prompt for row in training} & {row.prompt for row in held}
    assert 0 < len(held) <= round(share * len(rows))
    assert (selection.sizes, selection.validation_size) == ((len(training),), len(held))


def test_the_report_counts_rows_and_prompts_on_each_side_and_the_share_reached() -> None:
    selection = split(rows_of([i // 2 for i in range(40)]), validation_share=0.125)
    assert selection.lines == (
        "split by prompt: 36 rows (18 prompts) to train on, 4 rows (2 prompts) for validation: 10.00 % of the rows, 12.5 % asked",
    )


def test_the_seed_decides_the_split() -> None:
    rows = rows_of(range(100))
    held = [[row.id for _, row in split(rows, seed, validation_share=0.1).validation_rows()] for seed in (1, 1, 2)]
    assert held[0] == held[1] != held[2]


def test_one_prompt_alone_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"20 rows have 1 different prompts"):
        split(rows_of([0] * 20), validation_share=0.5)


def test_the_prompt_of_plain_text_is_what_stands_before_the_first_learned_segment() -> None:
    rows = [
        Row(str(i), (), "x", "all", segments=(Segment(f"q{i % 4}", learned=False), Segment(f"x{i}", learned=True)))
        for i in range(40)
    ]
    held = [row for _, row in split(rows, validation_share=0.25).validation_rows()]
    assert sorted(row.segments[0].text for row in held) == [held[0].segments[0].text] * 10


def test_turns_are_told_apart_by_role_and_by_where_they_end() -> None:
    one = (Message("user", "ab"), Message("assistant", "c"), Message("user", "d"))
    two = (Message("user", "a"), Message("assistant", "bc"), Message("user", "d"))
    three = (Message("system", "ab"), Message("assistant", "c"), Message("user", "d"))
    rows = [Row(str(i), prompt, "x", "all") for i, prompt in enumerate((one, two, three))]
    assert split(rows, validation_share=0.4).validation_size == 1


def _file(path: Path, prompts: Sequence[str]) -> str:
    turns = [[{"role": "user", "content": p}, {"role": "assistant", "content": "a"}] for p in prompts]
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns), encoding="utf-8")
    return str(path)


def test_a_source_for_validation_is_read_whole_and_a_prompt_that_is_trained_on_is_an_error(tmp_path: Path) -> None:
    rows = rows_of(range(20))
    apart = _file(tmp_path / "apart.jsonl", ["x", "y"])
    selection = split(rows, validation=[{"name": apart}])
    assert [row.id for _, row in selection.validation_rows()] == ["apart.jsonl:1", "apart.jsonl:2"]
    assert (selection.sizes, selection.validation_size) == ((20,), 2)
    leaking = _file(tmp_path / "leaking.jsonl", ["x", *(f"q{i}" for i in range(12))])
    with pytest.raises(UserError) as caught:
        split(rows, validation=[{"name": leaking}])
    assert "12 of 13 rows have a prompt that is trained on" in str(caught.value)
    assert "  leaking.jsonl:2 of " in str(caught.value)
    assert str(caught.value).endswith("... and 2 more")
