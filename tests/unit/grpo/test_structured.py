"""Completions of a given form: every one has it, wherever it is in it; its log-probabilities stay the model's own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tanren.common.completions import Completion, Sampling, Structured
from tanren.common.errors import UserError
from tanren.common.models.tiny import tiny_tokenizer
from tanren.grpo.config import StructuredConfig
from tanren.grpo.structured import check_room, read_structured
from tanren.grpo.transformers_engine import TransformersEngine

pytest.importorskip("llguidance")
MakeModel = Callable[..., Any]
PROMPTS = [[65, 66, 67], [70], [80, 81, 82, 83, 84, 85, 86, 87, 88]]
END = 2
COMPACT = {"whitespace_flexible": False}
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["charge", "wait"]},
        "power": {"type": "integer", "minimum": 0, "maximum": 99},
        "slots": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["kind", "power", "slots"],
    "additionalProperties": False,
    "x-guidance": COMPACT,
}


def _generate(model: Any, structured: Structured, tokens: int = 80, **settings: Any) -> list[Completion]:
    from tanren.common.grammar import Grammars

    grammars = Grammars(tiny_tokenizer(), model.get_input_embeddings().num_embeddings)
    engine = TransformersEngine(model, batch_size=16, padding=0, seed=1, grammars=grammars)
    sampling = Sampling(tokens, stop_token_ids=(END,), structured=structured, **settings)
    return [one for group in engine.generate(PROMPTS, 8, sampling) for one in group]


def _text(completion: Completion) -> str:
    return str(tiny_tokenizer().decode(list(completion.token_ids), skip_special_tokens=True))


def _complete(completions: list[Completion]) -> list[str]:
    """Return the texts of completions, each of which ended by itself, with one stop token."""
    for one in completions:
        assert one.finish_reason == "stop"
        assert one.token_ids.index(END) == len(one.token_ids) - 1
    return [_text(one) for one in completions]


def test_every_completion_is_a_document_of_the_schema(adapted: MakeModel) -> None:
    texts = _complete(_generate(adapted(), Structured("json_schema", json.dumps(SCHEMA))))
    for text in texts:
        found = json.loads(text)
        assert list(found) == ["kind", "power", "slots"]
        assert found["kind"] in ("charge", "wait")
        assert type(found["power"]) is int
        assert 0 <= found["power"] <= 99
        assert len(found["slots"]) <= 3
        assert all(type(one) is bool for one in found["slots"])
    assert (
        len({len(text) for text in texts}) > 3
    )  # rows of one batch are at different places of the schema, and end apart
    assert len(set(texts)) > 12


@pytest.mark.parametrize("expression", ["[a-c]{2,9}", "(yes|no), [0-9]{1,3}%", "é+[^x]"])
def test_every_completion_matches_the_whole_expression(adapted: MakeModel, expression: str) -> None:
    for completion in _generate(adapted("tiny-qwen3-moe"), Structured("regex", expression), 400):
        if completion.finish_reason == "stop":
            assert re.fullmatch(expression, _text(completion))
        else:
            assert len(completion.token_ids) == 400


def test_every_choice_is_drawn_and_nothing_else(adapted: MakeModel) -> None:
    choices = ["up", "upper", "down", 'a "quoted" \\ text', "上", "😀", "start: x | y"]
    found = _complete(_generate(adapted(), Structured("choices", json.dumps(choices))))
    found += _complete(_generate(adapted(), Structured("choices", json.dumps(choices[:3], ensure_ascii=False))))
    assert set(found) == set(choices)


def test_what_top_k_would_keep_is_taken_from_the_words_that_the_form_allows(adapted: MakeModel) -> None:
    completions = _generate(adapted(), Structured("regex", "[xyz]{20}"), top_k=2, temperature=0.5, min_p=0.01)
    assert all(re.fullmatch("[xyz]{20}", text) for text in _complete(completions))


def test_a_truncated_completion_is_the_beginning_of_what_the_form_allows(adapted: MakeModel) -> None:
    completions = _generate(adapted(), Structured("regex", "[ab]{4}[cd]{4}"), 6)
    assert {one.finish_reason for one in completions} == {"length"}
    assert all(re.fullmatch("[ab]{4}[cd]{2}", _text(one)) for one in completions)


def test_a_word_that_ends_completions_comes_only_where_the_form_may_end(adapted: MakeModel) -> None:
    from tanren.common.grammar import Grammars

    model, words = adapted(), tiny_tokenizer()("ab")["input_ids"]
    engine = TransformersEngine(model, batch_size=64, padding=0, seed=3, grammars=Grammars(tiny_tokenizer(), 259))
    sampling = Sampling(9, stop_token_ids=(0, END), structured=Structured("regex", "ab|abab"))
    found = {one.token_ids for group in engine.generate([PROMPTS[0]] * 8, 8, sampling) for one in group}
    assert found == {(*words * times, stop) for times in (1, 2) for stop in (0, END)}


@torch.no_grad()
def test_the_log_probs_are_the_models_among_all_words(adapted: MakeModel) -> None:
    model = adapted()
    completions = _generate(model, Structured("choices", '["up", "down"]'), temperature=0.7)
    model.get_base_model().set_attn_implementation("eager")
    for number, one in enumerate(completions):
        prompt = PROMPTS[number // 8]
        logits = model(input_ids=torch.tensor([[*prompt, *one.token_ids]]), use_cache=False).logits[0]
        every = logits.double().log_softmax(-1)
        own = [float(every[len(prompt) + place - 1, token]) for place, token in enumerate(one.token_ids)]
        assert one.log_probs == pytest.approx(own, abs=2e-4)
        assert one.log_probs[1] < -1  # the form left one word only, and its probability is no 1 for that


def test_what_is_no_form_is_told_with_its_file_and_its_fault(tmp_path: Path) -> None:
    def told(**settings: Any) -> str:
        with pytest.raises(UserError) as caught:
            read_structured(StructuredConfig(**settings))
        return str(caught.value)

    def schema(text: str) -> str:
        (tmp_path / "form.json").write_text(text, encoding="utf-8")
        return told(json_schema=tmp_path / "form.json")

    assert "form.json is no JSON: line 2, column 3" in schema('{"type":\n  }')
    assert "form.json holds a list" in schema("[]")
    assert "form.json: Invalid type: strin" in schema('{"type": "strin"}')
    assert 'form.json: Unimplemented keys: ["not"]' in schema('{"not": {"type": "string"}}')
    assert "cannot be read: No such file" in told(json_schema=tmp_path / "none.json")
    assert "unclosed group" in told(regex="a(")
    assert "look-around" in told(regex="a(?=b)")
    assert "json_schema and regex" in told(json_schema=tmp_path / "form.json", regex="a")
    assert "empty list" in told(choices=[])
    assert "'a' more than once" in told(choices=["a", "a"])
    assert read_structured(StructuredConfig()) == (None, ())


def test_a_choice_that_can_never_be_complete_is_refused() -> None:
    structured = read_structured(StructuredConfig(choices=["up", "downwards"]))[0]
    check_room(structured, tiny_tokenizer(), 10)
    with pytest.raises(UserError, match="'downwards' is 10 tokens with its stop token"):
        check_room(structured, tiny_tokenizer(), 9)
