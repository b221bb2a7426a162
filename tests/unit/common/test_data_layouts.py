"""The layouts of a row: what is the prompt, what the answer, what is metadata, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tanren.common.data import Fault, Source, scan
from tanren.common.task_contract import Message, Row, Segment

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def _read(tmp_path: Path, row: Any, layout: str = "auto") -> Row | Fault:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    (found,) = scan(Source(str(path), layout=layout))
    return found


def _row(tmp_path: Path, row: Any, layout: str = "auto") -> Row:
    found = _read(tmp_path, row, layout)
    assert isinstance(found, Row), found
    return found


def test_alpaca_is_question_and_answer_with_what_was_said_before(tmp_path: Path) -> None:
    row = _row(
        tmp_path,
        {
            "instruction": "Sum.",
            "input": "1 2",
            "output": "3",
            "history": [["h1", "a1"], ["h2", "a2"]],
            "system": "Be exact.",
            "id": 7,
            "task": "transform",
            "metadata": {"format": "csv", "id": 8},
        },
    )
    roles = ["system", "user", "assistant", "user", "assistant", "user", "assistant"]
    contents = ["Be exact.", "h1", "a1", "h2", "a2", "Sum.\n\n1 2", "3"]
    assert row.messages == tuple(Message(role, text) for role, text in zip(roles, contents, strict=True))
    assert row.metadata == {"id": 8, "task": "transform", "format": "csv"}


def test_an_alpaca_output_that_is_a_json_value_becomes_its_text(tmp_path: Path) -> None:
    row = _row(tmp_path, {"instruction": "i", "output": {"persons": [{"name": "山田", "age": None}]}})
    assert row.reference == '{"persons": [{"name": "山田", "age": null}]}'


def test_an_output_out_of_columns_that_is_an_object_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"instruction": "i", "output": {"a": 1}}, {"instruction": "i", "output": {"b": 1}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for fault in scan(Source(str(tmp_path / "a.parquet"))):
        assert isinstance(fault, Fault)
        assert "a key that is missing and one with null are the same" in fault.message


def test_prompt_and_completion_are_texts_or_turns(tmp_path: Path) -> None:
    assert _row(tmp_path, {"prompt": "q", "completion": "a"}).messages == (
        Message("user", "q"),
        Message("assistant", "a"),
    )
    system = {"role": "system", "content": "s"}
    row = _row(tmp_path, {"prompt": [system, USER], "completion": [ANSWER], "pack": "p"})
    assert [turn.role for turn in row.messages] == ["system", "user", "assistant"]
    assert row.metadata == {"pack": "p"}


def test_segments_are_a_text_in_pieces(tmp_path: Path) -> None:
    row = _row(
        tmp_path,
        {"segments": [{"label": False, "text": "<q>"}, {"label": True, "text": "a"}, {"label": True, "text": "b"}]},
    )
    assert row.segments == (Segment("<q>", False), Segment("a", True), Segment("b", True))
    assert (row.prompt, row.reference) == ((), "ab")


def test_a_row_that_fits_two_layouts_is_read_as_the_one_that_is_named(tmp_path: Path) -> None:
    row = {"messages": [USER, ANSWER], "prompt": "p", "completion": "c"}
    fault = _read(tmp_path, row)
    assert isinstance(fault, Fault)
    assert "fits the layouts messages and prompt-completion: say which one" in fault.message
    assert _row(tmp_path, row, "prompt-completion").reference == "c"
    named = _row(tmp_path, row, "messages")
    assert (named.reference, named.metadata) == ("a", {"prompt": "p", "completion": "c"})


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"question": "q", "answer": "a"}, "found the keys ['answer', 'question'], which fit none of the layouts messages (messages), "
         "alpaca (instruction, output), segments (segments), prompt-completion (prompt, completion)"),
        ({"messages": None, "x": 1}, "found the keys ['x'], which fit none"),
        ({"instruction": 3, "output": "a"}, "instruction: found a number, expected text"),
        ({"instruction": "i", "output": 3}, "output: found a number, expected text"),
        ({"instruction": "i", "output": " "}, "output: the last turn is empty"),
        ({"instruction": " ", "input": "", "output": "a"}, "instruction and input are both empty"),
        ({"instruction": "i", "output": "a", "history": "h"}, "history: found text, expected a list of pairs"),
        ({"instruction": "i", "output": "a", "history": [["h"]]}, "history[0]: found a list, expected a pair"),
        ({"instruction": "i", "output": "a", "history": [["h", None]]}, "history[0]: found nothing, expected text"),
        ({"prompt": "", "completion": "a"}, "prompt: found an empty text"),
        ({"prompt": [], "completion": "a"}, "prompt: found an empty list"),
        ({"prompt": "q", "completion": [USER]}, "completion: the last turn is of the role 'user'"),
        ({"prompt": "q\ud800", "completion": "a"}, "prompt: found half of a surrogate pair"),
        ({"messages": [{**USER, "name": "x"}, ANSWER]}, "messages[0]: found the keys ['name'], which would have no effect"),
        ({"segments": {}}, "segments: found an empty object"),
        ({"segments": ["a"]}, "segments[0]: found text, expected an object with 'label' and 'text'"),
        ({"segments": [{"label": "yes", "text": "a"}]}, "segments[0].label: found text, expected true (learned) or false"),
        ({"segments": [{"label": True, "text": None}]}, "segments[0].text: found nothing, expected text"),
        ({"segments": [{"label": True, "text": "a", "weight": 2}]}, "segments[0]: found the keys ['weight']"),
        ({"segments": [{"label": False, "text": "a"}, {"label": True, "text": ""}]}, "none with the label true has a text"),
    ],
)  # fmt: skip
def test_a_row_that_fits_no_layout_is_told(tmp_path: Path, row: Any, told: str) -> None:
    fault = _read(tmp_path, row)
    assert isinstance(fault, Fault)
    assert told in fault.message
    assert fault.place.endswith("rows.jsonl:1")


def test_a_layout_that_is_named_says_which_key_is_missing(tmp_path: Path) -> None:
    fault = _read(tmp_path, {"instruction": "i"}, "alpaca")
    assert isinstance(fault, Fault)
    assert fault.message == "no key 'output'; found the keys ['instruction']"
