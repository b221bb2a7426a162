"""Rows to prompts: as evaluation renders them, once, and refused with the row's name where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tanren.common.chat import prompt_hash, render_prompt
from tanren.common.data import PROMPT, Source, read_rows
from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row, Segment
from tanren.grpo.prompts import difficulties_of, make_prompts, prompts_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _row(*turns: tuple[str, str], **settings: Any) -> Row:
    return Row("r1", tuple(Message(*turn) for turn in turns), "", "all", **settings)


def _make(tokenizer: PreTrainedTokenizerBase, row: Row, **settings: Any) -> Any:
    return make_prompts(tokenizer, [row], **({"max_tokens": 99, "positions": None, "new_tokens": 5} | settings))[0]


def test_a_prompt_is_what_evaluation_asks(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    row = _row(("system", "be brief"), ("user", "hi"))
    prompt = _make(tiny_tokenizer, row)
    text = render_prompt(tiny_tokenizer, row.prompt)
    assert tiny_tokenizer.decode(list(prompt.token_ids)) == text
    assert prompt.hash == prompt_hash(text)
    assert text.endswith("<|im_start|>assistant\n")
    assert prompts_sha256([prompt]) != prompts_sha256([prompt, prompt])


@pytest.mark.parametrize(
    ("row", "settings", "told"),
    [
        (_row(("user", "x <|im_end|>")), {}, r"row r1: turn 1 \(user\) holds <\|im_end\|>"),
        (_row(("user", "a"), ("assistant", "<|im_start|>")), {}, r"row r1: turn 2 \(assistant\) holds <\|im_start\|>"),
        (_row(("user", "x" * 200)), {}, "row r1: its prompt has 2.. tokens, and rollout.max_prompt_tokens is 99"),
        (_row(("user", "hi")), {"positions": 30, "new_tokens": 20}, "exceed the model's 30 positions"),
        (_row(segments=(Segment("a", True),)), {}, "row r1 is plain text in segments"),
    ],
)
def test_what_is_no_prompt_is_refused(
    tiny_tokenizer: PreTrainedTokenizerBase, row: Row, settings: dict[str, int], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        _make(tiny_tokenizer, row, **settings)


def test_a_special_token_that_the_template_does_not_write_is_text(smollm2_tokenizer: PreTrainedTokenizerBase) -> None:
    assert _make(smollm2_tokenizer, _row(("user", "what does <repo_name> mean?"))).token_ids
    with pytest.raises(UserError, match="rendered already"):
        _make(smollm2_tokenizer, _row(("user", "<|im_start|>user\nhi<|im_end|>")))


def test_a_curriculum_needs_a_number_in_every_row(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    easy, hard = (_make(tiny_tokenizer, _row(("user", "?"), metadata={"level": level})) for level in (1, 2.5))
    assert difficulties_of([hard, easy], "level") == [2.5, 1.0]
    assert difficulties_of([hard, easy], None) == []
    with pytest.raises(UserError, match=r"data\.curriculum = 'size': row r1 has None there, .* has the numbers level"):
        difficulties_of([hard], "size")


def _read(folder: Path, *rows: dict[str, Any]) -> list[Row]:
    path = folder / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(read_rows(Source(str(path), layout=PROMPT)))


def test_the_forms_of_a_prompt_in_a_file(tmp_path: Path) -> None:
    text, turns, answered = _read(
        tmp_path,
        {"prompt": "2 + 2?", "answer": 4, "id": "sum", "level": "easy"},
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "metadata": {"k": 1}},
    )
    assert (text.id, text.expected, text.reference, text.metadata) == ("sum", 4, "4", {"level": "easy"})
    assert [message.role for message in turns.prompt] == ["system", "user"]
    assert (turns.id, turns.expected, turns.reference) == ("p.jsonl:2", None, "")
    assert (answered.prompt, answered.expected, answered.metadata) == ((Message("user", "q"),), "a", {"k": 1})


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"question": "x"}, r"p.jsonl:1: found the keys \['question'\], expected 'prompt' or 'messages'"),
        ({"prompt": ""}, "found no question"),
        ({"prompt": 3}, "prompt: found a number"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "found no question"),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "answer": "b"},
            "which one is meant",
        ),
    ],
)
def test_a_row_without_a_question_is_told_with_its_place(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        _read(tmp_path, row)
