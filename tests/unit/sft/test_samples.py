"""Rows that do not fit: an error, or dropped or cut with a full count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row
from tanren.sft.config import DataConfig
from tanren.sft.sample_report import MOST_LISTED, Dropped
from tanren.sft.samples import SampleMaker, make_samples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# "<|im_start|>user\n" 6 tokens, the question, "<|im_end|>\n<|im_start|>assistant\n" 13; the answer; its end and "\n" 2.
PROMPT, END = 6 + 1 + 13, 2


def _row(answer: str, identity: str = "r1") -> Row:
    return Row(identity, (Message("user", "q"),), answer, "all")


def _make(tokenizer: PreTrainedTokenizerBase, *rows: Row, **settings: Any) -> Any:
    return make_samples(tokenizer, rows, DataConfig(**settings))


def test_rows_that_fit_become_samples_and_are_counted(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    samples, report = _make(tiny_tokenizer, _row("abc", "a"), _row("abcde", "b"), max_tokens=PROMPT + 5 + END)
    assert [len(sample.input_ids) for sample in samples] == [PROMPT + 3 + END, PROMPT + 5 + END]
    assert (report.rows, report.samples, report.longest) == (2, 2, PROMPT + 5 + END)
    assert report.tokens == 2 * (PROMPT + END) + 8
    assert report.supervised == 3 + 1 + 5 + 1  # the answers, each with its end of turn
    assert report.lines()[0].startswith(f"2 samples from 2 rows: {report.tokens} tokens, 10 of them learned")


def test_a_row_that_is_too_long_is_an_error_that_says_by_how_much(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError) as caught:
        _make(tiny_tokenizer, _row("abcdef"), max_tokens=PROMPT + 5 + END)
    assert f"row r1 is too long: {PROMPT + 6 + END} tokens, data.max_tokens is {PROMPT + 5 + END}" in str(caught.value)
    assert "data.too_long to drop, cut-left or cut-right" in str(caught.value)


def test_dropped_rows_are_all_counted_and_written_and_the_first_ones_listed(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [_row("x" * 50, f"long{index}") for index in range(MOST_LISTED + 2)]
    dropped = Dropped()
    maker = SampleMaker(tiny_tokenizer, DataConfig(max_tokens=40, too_long="drop"), dropped)
    for row in [_row("abc"), *rows]:
        maker.add(row, "mine.jsonl")
    assert [sample.row_id for sample in maker.finish("train on")] == ["r1"]
    assert list(maker.kept) == [1] + [0] * (MOST_LISTED + 2)
    reason, tokens = "longer than 40 tokens", PROMPT + 50 + END
    assert maker.report.dropped == {(reason, "mine.jsonl"): MOST_LISTED + 2}
    assert dropped.listed == [f"row long{i}: {tokens} tokens, {reason}" for i in range(MOST_LISTED)]
    assert f"{MOST_LISTED + 2} rows dropped: {reason} (mine.jsonl {MOST_LISTED + 2})" in maker.report.lines()
    dropped.write(tmp_path / "dropped.jsonl")
    listed = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert listed == [
        {"row": f"long{i}", "reason": reason, "tokens": tokens, "group": "mine.jsonl"} for i in range(MOST_LISTED + 2)
    ]


@pytest.mark.parametrize(("side", "kept"), [("cut-left", slice(-30, None)), ("cut-right", slice(30))])
def test_a_cut_sample_keeps_one_end_with_its_mask(
    tiny_tokenizer: PreTrainedTokenizerBase, side: str, kept: slice
) -> None:
    ((whole,), _) = _make(tiny_tokenizer, _row("0123456789abcdefghij"))
    ((cut,), report) = _make(tiny_tokenizer, _row("0123456789abcdefghij"), max_tokens=30, too_long=side)
    assert (cut.input_ids, cut.loss_mask) == (whole.input_ids[kept], whole.loss_mask[kept])
    assert report.cut == {"all": 1}
    assert "1 samples were cut to data.max_tokens" in report.lines()


def test_a_sample_without_a_token_to_learn_is_an_error_or_dropped(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    settings = {"max_tokens": PROMPT, "too_long": "cut-right"}
    with pytest.raises(UserError) as caught:
        _make(tiny_tokenizer, _row("abc"), **settings, fully_masked="error")
    assert f"row r1 has no token to learn after cut-right to {PROMPT} tokens" in str(caught.value)
    with pytest.raises(UserError, match=r"no sample is left to train on:\n.*\n.*\n1 rows dropped: no token to learn"):
        _make(tiny_tokenizer, _row("abc"), **settings)


def test_the_first_token_is_never_learned_for_nothing_stands_before_it(
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> None:
    ((cut,), report) = _make(tiny_tokenizer, _row("abc"), max_tokens=4, too_long="cut-left")
    assert cut.loss_mask == [True, True, True, False]  # b, c, end of turn, line break
    assert cut.supervised == report.supervised == 2


def test_rows_without_a_marker_are_counted_dropped_or_refused(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [_row("why\nOutput:\nit", "a"), _row("it", "b"), _row("Output:\nOutput:\nit", "c")]
    samples, report = _make(tiny_tokenizer, *rows, learn_answer="after_marker")
    assert [sample.supervised for sample in samples] == [2 + 1, 2 + 1, len("Output:\nit") + 1]
    assert "1 rows have an answer without a marker (data.markers): learned whole" in report.lines()
    assert "1 rows have an answer with several lines that begin with a marker" in report.lines()
    kept, report = _make(tiny_tokenizer, *rows, learn_answer="after_marker", no_marker="drop")
    assert [sample.row_id for sample in kept] == ["a", "c"]
    assert report.lines()[-1] == "1 rows dropped: an answer without a marker"
    with pytest.raises(UserError, match=r"row b: an answer has no line that begins with one of Output:"):
        _make(tiny_tokenizer, *rows, learn_answer="after_marker", no_marker="error")
