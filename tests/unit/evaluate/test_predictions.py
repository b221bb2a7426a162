"""Predictions and tasks as files, and how they are joined."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row
from tanren.evaluate.predictions import Prediction, join, read_predictions, read_tasks, write_predictions, write_tasks

Predict = Callable[..., Prediction]

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@given(completion=st.text(max_size=30))
def test_any_completion_survives_the_file(
    tmp_path_factory: pytest.TempPathFactory, predict: Predict, completion: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "some" / "predictions.jsonl"
    predictions = [predict("a", completion), predict("b", f"x\u2028y\u0085z\r\n{completion}", cut=True)]
    write_predictions(path, predictions)
    assert read_predictions(path) == predictions


@given(
    text=st.text(max_size=20),
    expected=JSON,
    metadata=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
)
def test_tasks_survive_the_file_with_all_that_judging_needs(
    tmp_path_factory: pytest.TempPathFactory, text: str, expected: object, metadata: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "tasks.jsonl"
    rows = [Row(text, (Message("system", text), Message("user", "\u2028")), text, text, expected, metadata)]
    write_tasks(path, rows)
    assert read_tasks(path) == rows


def test_the_tasks_of_the_structured_pack_survive_the_file(tmp_path: Path) -> None:
    from tanren.common.task_packs import load_pack

    rows = load_pack("structured", {"heldout_rows": 40, "strings": "awkward"}).rows("heldout")
    write_tasks(tmp_path / "tasks.jsonl", rows)
    assert read_tasks(tmp_path / "tasks.jsonl") == rows


def test_pairs_come_in_the_order_of_the_tasks(rows: list[Row], predict: Predict) -> None:
    predictions = [predict(row.id) for row in reversed(rows)]
    pairs = join(rows, predictions, "p.jsonl")
    assert [(row.id, prediction.id) for row, prediction in pairs] == [(row.id, row.id) for row in rows]


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (["ash", "oak", "birch"], "1 missing ids (maple)"),
        ([], "4 missing ids (ash, oak, birch, maple)"),
        (["ash", "oak", "birch", "maple", "oak"], "1 doubled ids (oak)"),
        (["ash", "oak", "birch", "maple", "fir"], "1 unknown ids (fir)"),
        (
            ["ash", "ash", "fir", "elm"],
            "3 missing ids (oak, birch, maple); 1 doubled ids (ash); 2 unknown ids (fir, elm)",
        ),
    ],
)
def test_predictions_that_do_not_fit_the_tasks_are_refused(
    rows: list[Row], predict: Predict, ids: list[str], told: str
) -> None:
    with pytest.raises(UserError) as caught:
        join(rows, [predict(identity) for identity in ids], "p.jsonl")
    assert str(caught.value).startswith(f"p.jsonl: predictions do not fit the 4 tasks: {told};")


_GOOD = {
    "id": "a",
    "completion": "x",
    "prompt_hash": "0",
    "finish_reason": "stop",
    "prompt_tokens": 1,
    "completion_tokens": 1,
}


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ("{", "not JSON: "),
        ('"text"', "not a prediction: found str; expected id, completion,"),
        ("[1]", "not a prediction: found list"),
        ('{"id": "a"}', "not a prediction: found id; expected id, completion,"),
        (json.dumps(_GOOD | {"completion": None}), "completion: found None, expected text"),
        (json.dumps(_GOOD | {"id": 3}), "id: found 3, expected text"),
    ],
)
def test_what_is_not_a_prediction_is_told_with_its_line(tmp_path: Path, record: str, told: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f"{json.dumps(_GOOD)}\n\n{record}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "record", ["3", "{}", '{"id": "a", "prompt": "q"}', '{"prompt": []}', '{"prompt": [{"role": "user"}]}']
)
def test_what_is_not_a_task_is_told_with_its_line(tmp_path: Path, record: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(record, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_tasks(path)
    assert str(caught.value).startswith(f"{path}:1: not a task; expected an object with id, prompt,")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        read_predictions(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        read_predictions(tmp_path)
    (tmp_path / "p.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_predictions(tmp_path / "p.jsonl")
