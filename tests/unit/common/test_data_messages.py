"""A file of conversations: every fault is told with its line, no row is skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.data import MOST_FAULTS, Source, read_rows
from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def _line(*turns: Any, **more: Any) -> str:
    return json.dumps({"messages": list(turns), **more})


def _read(path: Path) -> list[Row]:
    return list(read_rows(Source(str(path), layout="messages")))


def _turn(role: Any = "user", content: Any = "q") -> dict[str, Any]:
    return {"role": role, "content": content}


ANSWER = _turn("assistant", "a")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not JSON:"),
        ("[]", "found an empty list, expected an object with the key 'messages'"),
        ("3", "found a number, expected an object"),
        ('{"prompt": "q", "answer": "a"}', "no key 'messages'; found the keys ['answer', 'prompt']"),
        ('{"messages": "q"}', "messages: found text, expected a list"),
        ('{"messages": []}', "messages: found an empty list, expected a list of at least"),
        (_line("q", ANSWER), "messages[0]: found text, expected an object with 'role' and 'content'"),
        (_line({"content": "q"}, ANSWER), "messages[0].role: found nothing, expected text"),
        (_line(_turn(content=None), ANSWER), "messages[0].content: found nothing, expected text"),
        (_line(_turn(content=["q"]), ANSWER), "messages[0].content: found a list, expected text"),
        (_line(_turn("human"), ANSWER), "messages[0].role: found 'human', expected one of system,"),
        (_line(_turn()), "the last turn is of the role 'user', expected 'assistant'"),
        (_line(_turn(), _turn("assistant", " \n")), "the last turn is empty"),
        (_line(ANSWER), "found the answer alone"),
        (_line(_turn(content="a\ud800"), ANSWER), "messages[0].content: found half of a surrogate pair"),
    ],
)
def test_a_broken_row_is_told_with_file_and_line(file: Path, line: str, told: str) -> None:
    file.write_text(f"{json.dumps(GOOD)}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        _read(file)
    first, fault = str(caught.value).splitlines()
    assert first == "1 of 2 rows cannot be used; correct or remove them:"
    assert fault.startswith(f"{file}:3: ")
    assert told in fault


def test_all_faults_are_counted_and_the_first_ones_listed(file: Path) -> None:
    file.write_text("\n".join([json.dumps(GOOD), *(["{}"] * (MOST_FAULTS + 3))]), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        _read(file)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{MOST_FAULTS + 3} of {MOST_FAULTS + 4} rows")
    assert [line.split(": ")[0] for line in lines[1:-1]] == [f"{file}:{n}" for n in range(2, MOST_FAULTS + 2)]
    assert lines[-1] == "... and 3 more"


@pytest.mark.parametrize(
    ("data", "told"), [(b"", "holds no row"), (b"\n \n", "holds no row"), (b"\xff{}", "not UTF-8 text")]
)
def test_a_file_without_readable_rows_is_told(file: Path, data: bytes, told: str) -> None:
    file.write_bytes(data)
    with pytest.raises(UserError) as caught:
        _read(file)
    assert told in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_told(file: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        _read(file)
    with pytest.raises(UserError, match="is a folder"):
        _read(file.parent)


def test_a_row_keeps_its_turns_its_metadata_and_its_line_as_id(file: Path) -> None:
    turns = [_turn("system", "s"), _turn(), ANSWER, _turn(content="more"), _turn("assistant", "b")]
    file.write_text(f"\n{_line(*turns, metadata={'source': 'x'})}\r\n", encoding="utf-8")
    (row,) = _read(file)
    assert row.id == "rows.jsonl:2"
    assert row.messages == tuple(Message(turn["role"], turn["content"]) for turn in turns)
    assert row.reference == "b"
    assert row.metadata == {"source": "x"}


@given(texts=st.lists(st.text(min_size=1).filter(lambda text: bool(text.strip())), min_size=1, max_size=5))
def test_any_text_survives_whatever_line_breaks_it_holds(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    rows = [{"messages": [_turn(content="q\u2028\u0085" + text), _turn("assistant", text)]} for text in texts]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert [row.reference for row in _read(path)] == texts
