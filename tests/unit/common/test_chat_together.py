"""Rows that are tokenised together, and plain text in segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from tanren.common.chat import Learned, make_sample, prompt_hash, render_row, tokenise
from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTENT = st.text(st.characters(codec="utf-8"), max_size=12)
CONVERSATION = st.tuples(CONTENT, CONTENT, CONTENT, CONTENT.filter(lambda text: bool(text.strip())))


@pytest.fixture(scope="module")
def merging() -> PreTrainedTokenizerFast:
    """A tokenizer of the letters a, b, c with one merge, ab; any other character is unknown to it."""
    vocabulary = {"?": 0, "a": 1, "b": 2, "c": 3, "ab": 4}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[("a", "b")], unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")


def _plain(*parts: tuple[str, bool]) -> Row:
    segments = tuple(Segment(text, learned) for text, learned in parts)
    return Row("r", (), "", "all", segments=segments)


@settings(max_examples=30)
@given(st.lists(CONVERSATION, min_size=1, max_size=6), st.sampled_from(["last", "all"]))
def test_a_sample_does_not_depend_on_what_is_tokenised_with_it(
    tiny_tokenizer: PreTrainedTokenizerBase, conversations: list[tuple[str, str, str, str]], turns: str
) -> None:
    learned = Learned("last" if turns == "last" else "all")
    roles = ("user", "assistant", "user", "assistant")
    rows = [
        Row(str(place), tuple(map(Message, roles[:3], contents[:3])), contents[3], "all")
        for place, contents in enumerate(conversations)
    ]
    names = [row.id for row in rows]
    together = tokenise(tiny_tokenizer, [render_row(tiny_tokenizer, row, learned, "") for row in rows], names, names)
    assert together == [make_sample(tiny_tokenizer, row.messages, row.id, "", learned) for row in rows]


@pytest.mark.parametrize(
    ("parts", "ids", "learned"),
    [
        ([("ca", False), ("c", True)], [3, 1, 3], [False, False, True]),
        ([("ca", False), ("bc", True)], [3, 4, 3], [False, False, True]),
        ([("ca", True), ("bc", False)], [3, 4, 3], [True, False, False]),
        ([("ca", True), ("", False), ("bc", True)], [3, 4, 3], [True, True, True]),
        ([("c", False), ("a", True), ("b", True)], [3, 4], [False, True]),
        ([("cab", False)], [3, 4], [False, False]),
    ],
)
def test_a_token_over_the_border_of_what_is_learned_is_only_read(
    merging: PreTrainedTokenizerFast, parts: list[tuple[str, bool]], ids: list[int], learned: list[bool]
) -> None:
    row = _plain(*parts)
    (sample,) = tokenise(merging, [render_row(merging, row, Learned(), "")], ["r"], ["row r"])
    assert (sample.input_ids, sample.loss_mask) == (ids, learned)


def test_the_prompt_of_plain_text_is_what_stands_before_its_first_learned_character(
    merging: PreTrainedTokenizerFast,
) -> None:
    rendered = render_row(merging, _plain(("ca", False), ("b", True), ("c", False)), Learned(), "")
    assert tokenise(merging, [rendered], ["r"], ["row r"])[0].prompt_hash == prompt_hash("ca")


def test_a_learned_character_that_the_tokenizer_cannot_write_is_refused_a_read_one_is_not(
    merging: PreTrainedTokenizerFast,
) -> None:
    read = render_row(merging, _plain(("x", False), ("c", True)), Learned(), "")
    assert tokenise(merging, [read], ["r"], ["row r"])[0].input_ids == [0, 3]
    written = render_row(merging, _plain(("c", False), ("x", True)), Learned(), "")
    with pytest.raises(UserError, match=r"row 2: the tokenizer has no token for 'x'"):
        tokenise(merging, [read, written], ["1", "2"], ["row 1", "row 2"])
