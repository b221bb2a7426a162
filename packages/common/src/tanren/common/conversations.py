"""Reads a JSONL file of conversations, every row checked, every fault with its file and line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tanren.common.errors import UserError
from tanren.common.jsonl import numbered_lines
from tanren.common.task_contract import Message, Row

ROLES = ("system", "developer", "user", "assistant", "tool")
# After so many faults of one file the list is cut: the first ones show what is wrong.
MOST_FAULTS = 10


def read_conversations(path: Path) -> list[Row]:
    """Return one row per line of `path`; the last turn of each is the answer to learn.

    Raises UserError with the places of all faulty rows (at most MOST_FAULTS are listed): no row is skipped.
    """
    path = path.expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"the data file cannot be read: no file {path}; check data.file") from None
    except IsADirectoryError:
        raise UserError(f"the data file cannot be read: {path} is a folder, expected a JSONL file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"the data file {path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    rows: list[Row] = []
    faults: list[str] = []
    for number, line in numbered_lines(text):
        try:
            rows.append(_row(json.loads(line), f"{path.name}:{number}"))
        except json.JSONDecodeError as error:
            faults.append(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}")
        except _FaultyRowError as error:
            faults.append(f"{path}:{number}: {error}")
    if faults:
        more = f"\n... and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        listed = "\n".join(faults[:MOST_FAULTS])
        raise UserError(
            f"{len(faults)} of {len(rows) + len(faults)} rows cannot be used; correct or remove them:\n{listed}{more}"
        )
    if not rows:
        raise UserError(f"the data file {path} holds no row; expected one JSON object per line")
    return rows


class _FaultyRowError(Exception):
    """What is wrong with a row."""


def _row(record: Any, row_id: str) -> Row:
    if not isinstance(record, Mapping):
        raise _FaultyRowError(f"found {_kind(record)}, expected an object with the key 'messages'")
    if "messages" not in record:
        raise _FaultyRowError(f"no key 'messages'; found the keys {sorted(record)}")
    messages = record["messages"]
    if not isinstance(messages, list) or not messages:
        raise _FaultyRowError(
            f"messages: found {_kind(messages)}, expected a list of at least one prompt turn and the answer"
        )
    turns = [_turn(message, index) for index, message in enumerate(messages)]
    if turns[-1].role != "assistant":
        raise _FaultyRowError(
            f"messages: the last turn is of the role {turns[-1].role!r}, expected 'assistant': it is the answer to learn"
        )
    if not turns[-1].content.strip():
        raise _FaultyRowError("messages: the last turn is empty; expected the answer to learn")
    if len(turns) == 1:
        raise _FaultyRowError("messages: found the answer alone, expected at least one turn before it")
    metadata = record.get("metadata")
    return Row(
        id=row_id,
        prompt=tuple(turns[:-1]),
        reference=turns[-1].content,
        group="all",
        metadata=metadata if isinstance(metadata, Mapping) else {},
    )


def _turn(message: Any, index: int) -> Message:
    place = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise _FaultyRowError(f"{place}: found {_kind(message)}, expected an object with 'role' and 'content'")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise _FaultyRowError(f"{place}.{key}: found {_kind(message.get(key))}, expected text")
        if any("\ud800" <= character <= "\udfff" for character in message[key]):
            raise _FaultyRowError(
                f"{place}.{key}: found half of a surrogate pair (\\ud800 to \\udfff), expected Unicode text"
            )
    unknown = sorted(message.keys() - {"role", "content"})
    if unknown:
        raise _FaultyRowError(
            f"{place}: found the keys {unknown}, which would have no effect; expected 'role' and 'content'"
        )
    if message["role"] not in ROLES:
        raise _FaultyRowError(f"{place}.role: found {message['role']!r}, expected one of {', '.join(ROLES)}")
    return Message(message["role"], message["content"])


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {
        list: "a list",
        dict: "an object",
        str: "text",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    text = names.get(type(value), type(value).__name__)
    return f"an empty {text.split()[-1]}" if value in ([], {}, "") else text
