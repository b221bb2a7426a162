"""Rows of prompts: what is asked, with the answer where one is known; nobody has to know it."""

from __future__ import annotations

from collections.abc import Mapping

from tanren.common.data._layouts import _metadata, _text, _turns
from tanren.common.data._records import FaultyRowError, Record, kind_of
from tanren.common.task_contract import Message, Row

PROMPT = "prompt"
"""The layout's name. `auto` never finds it: a row with an answer fits others, too."""


def prompt_row_of(record: Record, row_id: str) -> Row:
    """Return the row of a prompt: `prompt` (a text, or a list of turns) or `messages`, and `answer` where there is one.

    `id` names the row if it is given. `answer` may be any value; it is what is expected, and as text the reference. Turns
    that end with the assistant's are a prompt and its answer. Raises FaultyRowError, which says what was found.
    """
    value = record.value
    if not isinstance(value, Mapping):
        raise FaultyRowError(f"found {kind_of(value)}, expected an object with the key 'prompt' or 'messages'")
    key = "prompt" if value.get("prompt") is not None else "messages"
    asked = value.get(key)
    if asked is None:
        raise FaultyRowError(f"found the keys {sorted(value)}, expected 'prompt' or 'messages'")
    turns = (Message("user", _text(value, key)),) if isinstance(asked, str) else _turns(asked, key)
    answer = value.get("answer")
    if turns[-1].role == "assistant":
        if answer is not None:
            raise FaultyRowError(
                f"{key} ends with an answer, and there is 'answer', too: which one is meant? remove one"
            )
        turns, answer = turns[:-1], turns[-1].content
    if not turns or not turns[-1].content.strip():
        raise FaultyRowError(f"{key}: found no question, expected a turn with text before the answer")
    named = value.get("id")
    reference = answer if isinstance(answer, str) else "" if answer is None else str(answer)
    return Row(
        id=str(named) if isinstance(named, str | int) else row_id,
        prompt=turns,
        reference=reference,
        group="all",
        expected=answer,
        metadata=_metadata(value, {key, "answer", "id"}),
    )
