"""What a rendered conversation teaches: exactly the answer and its end-of-turn token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tanren.common.chat import Sample, make_sample, prompt_hash, render_prompt
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


def _sample(tokenizer: PreTrainedTokenizerBase, *messages: Message) -> Sample:
    return make_sample(tokenizer, messages, "r1", "row r1")


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
        ("{{ raise_exception('only user turns') }}", "roles ['user']: only user turns"),
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
