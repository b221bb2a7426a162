"""Rows of a value file: its prompts as messages, each with the values of its actions."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row
from tanren.common.values._formulas import best_action
from tanren.common.values._table import PREFIX, read_values

PROMPT_COLUMN = "prompt"
VALUES_KEY = "action_values"
"""The key of `Row.metadata` that holds the value of each action, to be maximised."""
GROUP = "state"
_TURN = re.compile(r"^(system|user|assistant):[ \t]*", re.MULTILINE)
_HARMONY_TURN = re.compile(r"<\|start\|>(system|developer|user)<\|message\|>(.*?)<\|end\|>", re.DOTALL)
_HARMONY_END = "<|start|>assistant"
# What gpt-oss's template itself writes: the system turn, and a heading above the instructions.
_HARMONY_SYSTEM = "You are ChatGPT"
_HARMONY_HEADING = "# Instructions"


def value_rows(path: Path, prefix: str = PREFIX) -> list[Row]:
    """Return a row for each line of a value file: prompt, best action (`[2]` as reference, 2 as expected), action values.

    The column `prompt` is plain text (one turn of the user), or has lines that begin with `system:`, `user:` or
    `assistant:`, or is rendered by gpt-oss's template: that one is taken apart again, because each run renders prompts
    itself, once. All other columns are metadata. Raises UserError as `read_values` does, and for a prompt that is missing.
    """
    table = read_values(path, prefix)
    if PROMPT_COLUMN not in table.columns:
        raise UserError(f"{path}: the column {PROMPT_COLUMN!r} is missing: found {', '.join(table.columns)}")
    rows = []
    for row in table.rows:
        metadata = {
            name: text for name, text in row.cells.items() if name != PROMPT_COLUMN and not name.startswith(prefix)
        }
        best = best_action(row.values)
        prompt = prompt_messages(row.cells[PROMPT_COLUMN], row.place)
        values = {VALUES_KEY: list(row.values)}
        rows.append(Row(row.id, prompt, f"[{best}]", GROUP, best, metadata | values))
    return rows


def values_of(row: Row) -> list[float]:
    """Return the value of each action in a row's state. Raises UserError for a row that has none."""
    values = row.metadata.get(VALUES_KEY)
    if isinstance(values, list | tuple) and len(values) > 1 and all(_is_finite(value) for value in values):
        return [float(value) for value in values]
    raise UserError(
        f"row {row.id}: metadata.{VALUES_KEY} is {values!r}, expected one finite number for each action: use rows of a value "
        "file or of a task pack that gives them, or name the reward's file"
    )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def prompt_messages(text: str, place: str) -> tuple[Message, ...]:
    """Return a prompt's turns (see `value_rows`); several turns of the system at its beginning become one.

    Raises UserError, naming `place`, for an empty prompt, and for a rendered one that is not as gpt-oss's template writes it.
    """
    if not text.strip():
        raise UserError(f"{place}: column {PROMPT_COLUMN}: found nothing, expected a prompt")
    turns = _harmony_turns(text, place) if "<|start|>" in text else _line_turns(text)
    leading = next((index for index, turn in enumerate(turns) if turn.role != "system"), len(turns))
    system = "\n".join(turn.content for turn in turns[:leading])
    messages = ((Message("system", system),) if leading else ()) + tuple(turns[leading:])
    if not messages or messages[-1].role != "user":
        found = [message.role for message in messages]
        raise UserError(
            f"{place}: column {PROMPT_COLUMN}: found the turns {found}, expected the user's as the last one"
        )
    return messages


def _line_turns(text: str) -> list[Message]:
    marks = list(_TURN.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        return [Message("user", text)]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [Message(mark[1], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]


def _harmony_turns(text: str, place: str) -> list[Message]:
    marks = list(_HARMONY_TURN.finditer(text))
    rest = _HARMONY_TURN.sub("", text).strip()
    if not marks or rest != _HARMONY_END:
        raise UserError(
            f"{place}: column {PROMPT_COLUMN}: it has special tokens (<|start|>) but is no prompt as gpt-oss's template writes "
            f"it (left over: {rest[:60]!r}); write the turns as plain text, with `system:` and `user:` before them"
        )
    turns = []
    for mark in marks:
        role, content = mark[1], mark[2].strip()
        if role == "system" and content.startswith(_HARMONY_SYSTEM):
            continue
        if role == "developer":
            role, content = "system", content.removeprefix(_HARMONY_HEADING).strip()
        turns.append(Message(role, content))
    return turns
