"""The layouts of a row: which keys hold the prompt, the answer and the rest, every one checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tanren.common.data._records import FaultyRowError, Record, kind_of
from tanren.common.task_contract import Message, Row, Segment

ROLES = ("system", "developer", "user", "assistant", "tool")
AUTO = "auto"
_SURROGATE = re.compile(r"[\ud800-\udfff]")
Turns = tuple[Message, ...]


@dataclass(frozen=True)
class Layout:
    """How a row holds a conversation, or a text in segments."""

    needed: tuple[str, ...]
    """Keys that a row must have."""
    optional: tuple[str, ...]
    """Keys that it may have; any further one is metadata."""
    read: Callable[[Record], Turns | tuple[Segment, ...]]


def row_of(record: Record, row_id: str, layout: str) -> Row:
    """Return the row that a record holds. Raises FaultyRowError, which says what was found."""
    value = record.value
    if not isinstance(value, Mapping):
        keys = " and ".join(f"{key!r}" for key in LAYOUTS[layout].needed) if layout != AUTO else ""
        expected = f"the key {keys}" if keys else f"the keys of a layout: {_in_words()}"
        raise FaultyRowError(f"found {kind_of(value)}, expected an object with {expected}")
    chosen = LAYOUTS[layout_of(value) if layout == AUTO else layout]
    for key in chosen.needed:
        if key not in value:
            raise FaultyRowError(f"no key {key!r}; found the keys {sorted(value)}")
    found = chosen.read(record)
    metadata = _metadata(value, {*chosen.needed, *chosen.optional})
    segments = tuple(part for part in found if isinstance(part, Segment))
    if segments:
        learned = "".join(segment.text for segment in segments if segment.learned)
        return Row(id=row_id, prompt=(), reference=learned, group="all", metadata=metadata, segments=segments)
    turns = tuple(part for part in found if isinstance(part, Message))
    return Row(id=row_id, prompt=turns[:-1], reference=turns[-1].content, group="all", metadata=metadata)


def layout_of(value: Mapping[str, Any]) -> str:
    """Return the layout whose keys a row has. Raises FaultyRowError where none or several fit."""
    fitting = [name for name, layout in LAYOUTS.items() if all(value.get(key) is not None for key in layout.needed)]
    if not fitting:
        # A column file has every key in every row, with nothing in it.
        filled = sorted(key for key in value if value[key] is not None)
        raise FaultyRowError(f"found the keys {filled}, which fit none of the layouts {_in_words()}")
    if len(fitting) > 1:
        raise FaultyRowError(f"fits the layouts {' and '.join(fitting)}: say which one to read (layout)")
    return fitting[0]


def check_turns(turns: Turns, what: str = "messages") -> Turns:
    """Return turns that end with an answer after at least one other. Raises FaultyRowError."""
    if turns[-1].role != "assistant":
        raise FaultyRowError(
            f"{what}: the last turn is of the role {turns[-1].role!r}, expected 'assistant': it is the answer to learn"
        )
    if not turns[-1].content.strip():
        raise FaultyRowError(f"{what}: the last turn is empty; expected the answer to learn")
    if len(turns) == 1:
        raise FaultyRowError(f"{what}: found the answer alone, expected at least one turn before it")
    return turns


def _messages(record: Record) -> Turns:
    return check_turns(_turns(record.value["messages"], "messages"))


def _alpaca(record: Record) -> Turns:
    """`instruction`, and `input` behind an empty line, are the question; `history` holds earlier ones with their answers."""
    value = record.value
    instruction, given = _text(value, "instruction"), _text(value, "input") if value.get("input") is not None else ""
    turns = [Message("system", _text(value, "system"))] if value.get("system") else []
    history = value.get("history") or []
    if not isinstance(history, list):
        raise FaultyRowError(f"history: found {kind_of(history)}, expected a list of pairs: question and answer")
    for index, pair in enumerate(history):
        place = f"history[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise FaultyRowError(f"{place}: found {kind_of(pair)}, expected a pair: question and answer")
        turns += [Message("user", _unicode(pair[0], place)), Message("assistant", _unicode(pair[1], place))]
    question = "\n\n".join(text for text in (instruction, given) if text.strip())
    if not question:
        raise FaultyRowError("instruction and input are both empty; expected the question")
    turns += [Message("user", question), Message("assistant", _output(record))]
    return check_turns(tuple(turns), "output")


def _output(record: Record) -> str:
    """Return `output`; an object or a list is written as JSON. Out of columns it cannot be: keys without a value are added there."""
    output = record.value["output"]
    if isinstance(output, dict | list):
        if record.columnar:
            raise FaultyRowError(
                f"output: found {kind_of(output)} in a file of columns, where a key that is missing and one with null are the "
                "same; write it as JSON text"
            )
        return json.dumps(output, ensure_ascii=False)
    return _text(record.value, "output")


def _prompt_completion(record: Record) -> Turns:
    """Each is a text (one turn of the user, one of the assistant) or a list of turns."""
    turns: list[Message] = []
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        part = record.value[key]
        turns += _turns(part, key) if isinstance(part, list) else [Message(role, _text(record.value, key))]
    if not turns[0].content.strip() and len(turns) == 2:
        raise FaultyRowError("prompt: found an empty text, expected the question")
    return check_turns(tuple(turns), "completion")


def _segments(record: Record) -> tuple[Segment, ...]:
    segments = record.value["segments"]
    if not isinstance(segments, list) or not segments:
        raise FaultyRowError(f"segments: found {kind_of(segments)}, expected a list of {{'label', 'text'}}")
    found = []
    for index, segment in enumerate(segments):
        place = f"segments[{index}]"
        if not isinstance(segment, Mapping):
            raise FaultyRowError(f"{place}: found {kind_of(segment)}, expected an object with 'label' and 'text'")
        if not isinstance(segment.get("label"), bool):
            raise FaultyRowError(
                f"{place}.label: found {kind_of(segment.get('label'))}, expected true (learned) or false"
            )
        _no_more_than(segment, ("label", "text"), place)
        found.append(Segment(_text(segment, "text", place), segment["label"]))
    if not any(segment.learned and segment.text for segment in found):
        raise FaultyRowError("segments: none with the label true has a text; expected something to learn")
    return tuple(found)


LAYOUTS: dict[str, Layout] = {
    "messages": Layout(("messages",), (), _messages),
    "alpaca": Layout(("instruction", "output"), ("input", "history", "system"), _alpaca),
    "segments": Layout(("segments",), (), _segments),
    "prompt-completion": Layout(("prompt", "completion"), (), _prompt_completion),
}


def _turns(messages: Any, what: str) -> Turns:
    if not isinstance(messages, list) or not messages:
        raise FaultyRowError(
            f"{what}: found {kind_of(messages)}, expected a list of at least one prompt turn and the answer"
        )
    return tuple(_turn(message, f"{what}[{index}]") for index, message in enumerate(messages))


def _turn(message: Any, place: str) -> Message:
    if not isinstance(message, Mapping):
        raise FaultyRowError(f"{place}: found {kind_of(message)}, expected an object with 'role' and 'content'")
    role, content = _text(message, "role", place), _text(message, "content", place)
    _no_more_than(message, ("role", "content"), place)
    if role not in ROLES:
        raise FaultyRowError(f"{place}.role: found {role!r}, expected one of {', '.join(ROLES)}")
    return Message(role, content)


def _text(value: Mapping[str, Any], key: str, place: str = "") -> str:
    return _unicode(value.get(key), f"{place}.{key}" if place else key)


def _unicode(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise FaultyRowError(f"{where}: found {kind_of(text)}, expected text")
    if _SURROGATE.search(text):
        raise FaultyRowError(f"{where}: found half of a surrogate pair (\\ud800 to \\udfff), expected Unicode text")
    return text


def _no_more_than(value: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    unknown = sorted(key for key in value.keys() - set(known) if value[key] is not None)
    if unknown:
        expected = " and ".join(f"{key!r}" for key in known)
        raise FaultyRowError(f"{place}: found the keys {unknown}, which would have no effect; expected {expected}")


def _metadata(value: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    """Return the row's other values, and what its `metadata` holds; of two with one name the latter's."""
    given = value.get("metadata")
    columns = {key: one for key, one in value.items() if key not in used and isinstance(one, str | int | float | bool)}
    return columns | dict(given) if isinstance(given, Mapping) else columns


def _in_words() -> str:
    return ", ".join(f"{name} ({', '.join(layout.needed)})" for name, layout in LAYOUTS.items())
