"""What a rendered conversation teaches: exactly the answer and its end-of-turn token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tanren.common.chat import Learned, Sample, make_sample, prompt_hash, render_prompt
from tanren.common.errors import UserError
from tanren.common.task_contract import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = "<|im_end|>"
USER = Message("user", "Say it.")
SYSTEM = Message("system", "Be brief.")
# SmolLM2 cannot write some control characters, nor the planes of Unicode that hold no character yet.
_ANSWER = st.text(
    st.one_of(st.characters(max_codepoint=0x2FFFF, exclude_categories=["Cc", "Cs"]), st.sampled_from("\n\r\t")),
    max_size=40,
)


@pytest.fixture(params=["tiny", "smollm2"], scope="module")
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = request.getfixturevalue(f"{request.param}_tokenizer")
    return found


def _sample(tokenizer: PreTrainedTokenizerBase, *messages: Message, learned: Learned | None = None) -> Sample:
    return make_sample(tokenizer, messages, "r1", "row r1", learned or Learned())


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _learned(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> str:
    ids = [token for token, learned in zip(sample.input_ids, sample.loss_mask, strict=True) if learned]
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@settings(max_examples=80)
@given(answer=_ANSWER, question=st.text(max_size=20))
@example(answer=" leading and trailing ", question="q")
@example(answer="\n\nlines\n", question="q\n")
@example(answer="鍛錬は刀を打つこと。", question="日本語")
@example(answer="👩‍👩‍👧 🇯🇵 e\u0301", question="👍🏽")
@example(answer="a\u2028b\u0085c\r\nd\te", question="")
@example(answer=f"before {END} after", question=f"quote {END} this")
@example(answer="Say it.", question="Say it.")
@example(answer="<|im_start|>assistant\n", question="x")
@example(answer="   ", question="x")
@example(answer="1234567890 3.14 , . ! 's n't", question="x")
def test_the_answer_and_its_end_of_turn_are_learned_and_nothing_else(
    tokenizer: PreTrainedTokenizerBase, answer: str, question: str
) -> None:
    prompt = (SYSTEM, Message("user", question))
    sample = _sample(tokenizer, *prompt, Message("assistant", answer))
    assert _learned(tokenizer, sample) == answer + END
    prompt_ids = _ids(tokenizer, render_prompt(tokenizer, prompt))
    assert sample.input_ids[: len(prompt_ids)] == prompt_ids
    assert not any(sample.loss_mask[: len(prompt_ids)])
    assert sample.prompt_hash == prompt_hash(render_prompt(tokenizer, prompt))
    assert sample.supervised == sum(sample.loss_mask)


def test_what_the_template_writes_behind_the_turn_is_read_but_not_learned(tokenizer: PreTrainedTokenizerBase) -> None:
    sample = _sample(tokenizer, USER, Message("assistant", "yes"))
    text = str(tokenizer.decode(sample.input_ids, clean_up_tokenization_spaces=False))
    assert text.endswith(f"yes{END}\n")
    assert sample.loss_mask[-2:] == [True, False]


def test_of_several_turns_the_last_answer_alone_is_learned(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [USER, Message("assistant", "yes"), Message("user", "Again."), Message("assistant", "yes")]
    sample = _sample(tokenizer, SYSTEM, *turns)
    assert _learned(tokenizer, sample) == "yes" + END
    assert "yes" in render_prompt(tokenizer, turns[:-1])


def test_of_all_turns_each_answer_is_learned_and_each_begins_with_its_own_prompt(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    turns = [USER, Message("assistant", " one"), Message("user", "Again."), Message("assistant", "two\n")]
    sample = _sample(tokenizer, SYSTEM, *turns, learned=Learned("all"))
    whole = str(tokenizer.decode(sample.input_ids, clean_up_tokenization_spaces=False))
    assert _learned(tokenizer, sample) == f" one{END}two\n{END}"
    assert whole.startswith(render_prompt(tokenizer, [SYSTEM, USER]) + " one")
    first = _ids(tokenizer, render_prompt(tokenizer, [SYSTEM, USER]))
    assert sample.input_ids[: len(first)] == first
    assert sample.prompt_hash == prompt_hash(render_prompt(tokenizer, [SYSTEM, *turns[:-1]]))


MARKERS = ("Output:", "Result:")
REASONED = "Approach:\n1. Look.\n2. Result: think.\n\nOutput:\n{0}"


@settings(max_examples=60)
@given(payload=_ANSWER)
@example(payload='{"Output:": "Output:"}')
@example(payload="Output:\nOutput:\n")
@example(payload="a,b\r\n1,2\r\n")
def test_after_its_marker_an_answer_is_learned_to_the_end(tokenizer: PreTrainedTokenizerBase, payload: str) -> None:
    answer = REASONED.format(f"x{payload}y")
    after = _sample(tokenizer, USER, Message("assistant", answer), learned=Learned("last", "after_marker", MARKERS))
    whole = _sample(tokenizer, USER, Message("assistant", answer))
    assert _learned(tokenizer, after) == f"x{payload}y{END}"
    assert after.input_ids == whole.input_ids  # the mask changes, what is read does not
    from_marker = Learned("last", "from_marker", MARKERS)
    assert _learned(tokenizer, _sample(tokenizer, USER, Message("assistant", answer), learned=from_marker)) == (
        f"Output:\nx{payload}y{END}"
    )


@pytest.mark.parametrize(
    ("answer", "learned", "count"),
    [
        ("no marker here", f"no marker here{END}", 0),
        ("the Output: stands within a line", f"the Output: stands within a line{END}", 0),
        ("Think.\nOutput: 42", f" 42{END}", 1),
        ("Result: of thinking\nOutput:\n42", f"42{END}", 2),
        ("Output:\r\n42", f"42{END}", 1),
        ("Output:\nResult:\n  a: 1", f"Result:\n  a: 1{END}", 2),
    ],
)
def test_a_marker_begins_a_line_and_the_first_that_fills_its_line_counts(
    tiny_tokenizer: PreTrainedTokenizerBase, answer: str, learned: str, count: int
) -> None:
    sample = _sample(
        tiny_tokenizer, USER, Message("assistant", answer), learned=Learned("last", "after_marker", MARKERS)
    )
    assert _learned(tiny_tokenizer, sample) == learned
    assert sample.markers == (count,)


def test_in_real_rows_exactly_what_follows_the_marker_is_learned(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    rows = _real_rows()
    assert len(rows) == 568
    for row in rows[::7]:
        turns = [Message(turn["role"], turn["content"]) for turn in row["messages"]]
        sample = _sample(tiny_tokenizer, *turns, learned=Learned("last", "after_marker", MARKERS))
        assert sample.markers == (1,)
        assert _learned(tiny_tokenizer, sample) == turns[-1].content.split("\nOutput:\n")[1] + END


def _real_rows() -> list[dict[str, Any]]:
    root = Path(__file__).resolve().parents[3]
    for place in (root.parent / "shared", root.parent.parent / "shared"):
        path = place / "data" / "sft" / "structured_512_v5_validation.jsonl"
        if path.is_file():
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    pytest.skip("no shared/data/sft beside the checkout")


@pytest.mark.parametrize("character", ["\x04", "\U00040000"])
def test_an_answer_that_the_tokenizer_cannot_write_is_refused(
    smollm2_tokenizer: PreTrainedTokenizerBase, character: str
) -> None:
    with pytest.raises(UserError, match=r"row r1: the tokenizer has no token for '.+' in the answer"):
        _sample(smollm2_tokenizer, USER, Message("assistant", f"a{character}b"))
    _sample(smollm2_tokenizer, Message("user", character), Message("assistant", "<|endoftext|>"))


def test_smollm2_inserts_its_own_system_message_where_none_is_given(
    smollm2_tokenizer: PreTrainedTokenizerBase,
) -> None:
    without, own = (render_prompt(smollm2_tokenizer, prompt) for prompt in ((USER,), (SYSTEM, USER)))
    assert "You are a helpful AI assistant named SmolLM" in without
    assert "SmolLM" not in own
    assert prompt_hash(without) != prompt_hash(own)


@pytest.fixture
def with_template(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    from tanren.common.models.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = request.param
    return tokenizer


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("with_template", "told"),
    [
        (None, "has no chat template"),
        (
            "{% for m in messages %}{% if m.role != 'assistant' %}{{ m.content }}{% endif %}{% endfor %}",
            "renders no assistant turn",
        ),
        (TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}", "its own prompt"),
        ("{{ messages | length }}" + TURNS, "part at character 0"),
        ("{{ raise_exception('only user turns') }}", "roles ['user', 'assistant']: only user turns"),
        ("{{ missing.attribute }}", "refuses a conversation"),
    ],
    indirect=["with_template"],
)
def test_a_template_that_cannot_be_trained_with_is_refused(with_template: PreTrainedTokenizerBase, told: str) -> None:
    with pytest.raises(UserError) as caught:
        _sample(with_template, USER, Message("assistant", "yes"))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "with_template",
    [
        TURNS.replace("m.content", "m.content | trim")
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ],
    indirect=True,
)
def test_an_answer_that_the_template_trims_is_learned_as_it_was_written(
    with_template: PreTrainedTokenizerBase,
) -> None:
    sample = _sample(with_template, USER, Message("assistant", "  yes\n"))
    assert _learned(with_template, sample) == "yes" + END
