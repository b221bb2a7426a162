"""Submissions: read, scored, checked and written, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tanren.common.errors import UserError
from tanren.evaluate.answer_commands import score_command, submit_command
from tanren.evaluate.predictions import Prediction, write_predictions

_TASKS = [
    {"task_id": "p_1", "task_name": "Text to JSON", "query": "q", "output_type": "JSON", "raw_output_metric": ["a", "b"]},
    {"task_id": "p_2", "task_name": "CSV to YAML", "query": "<code>n\n1\n</code>", "output_type": "YAML"},
    {"task_id": "p_3", "task_name": "Text to JSON", "query": "q", "output_type": "JSON"},
]  # fmt: skip
_ANSWERS = {"p_1": '```json\n{"a": 1}\n```', "p_2": "- n: 1\n", "p_3": "{"}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return written(tmp_path / "tasks.json", _TASKS)


def written(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def submission(path: Path, *ids: str) -> Path:
    return written(path, [{"task_id": one, "generation": _ANSWERS.get(one, "x")} for one in ids])


def predictions(path: Path, *ids: str) -> Path:
    write_predictions(path, [Prediction(one, _ANSWERS[one], "0" * 16, "stop", 3, 2) for one in ids])
    return path


def test_predictions_and_submissions_get_the_same_scores_by_mode_and_format(
    tmp_path: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {
        "lenient": {
            "valid": 2,
            "total": 3,
            "by_format": {"JSON": {"valid": 1, "total": 2}, "YAML": {"valid": 1, "total": 1}},
        },
        "strict": {
            "valid": 1,
            "total": 3,
            "by_format": {"JSON": {"valid": 0, "total": 2}, "YAML": {"valid": 1, "total": 1}},
            "compared": 1,
        },
        "compatible": {
            "valid": 2,
            "total": 3,
            "by_format": {"JSON": {"valid": 1, "total": 2}, "YAML": {"valid": 1, "total": 1}},
            "score": 0.6,
            "scored": 1,
        },
    }
    for path in (
        submission(tmp_path / "s.json", "p_3", "p_1", "p_2"),
        predictions(tmp_path / "predictions.jsonl", "p_2", "p_1", "p_3"),
    ):
        assert score_command("structured", path, tasks, as_json=True) == 0
        assert json.loads(capsys.readouterr().out) == expected
    score_command("structured", path, tasks)
    table = capsys.readouterr().out
    assert "lenient" in table
    assert "67 [21-94]" in table


def test_missing_doubled_and_unknown_ids_are_listed(tmp_path: Path, tasks: Path) -> None:
    path = submission(tmp_path / "s.json", "p_1", "p_1", "p_9")
    with pytest.raises(UserError, match=r"2 missing ids \(p_2, p_3\); 1 doubled ids \(p_1\); 1 unknown ids \(p_9\)"):
        score_command("structured", path, tasks)


def test_a_submission_is_written_in_the_order_of_the_tasks_and_passes_its_check(
    tmp_path: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, out = predictions(tmp_path / "predictions.jsonl", "p_3", "p_2", "p_1"), tmp_path / "new" / "inference.json"
    assert submit_command("structured", made, tasks, out) == 0
    assert json.loads(out.read_text(encoding="utf-8")) == [
        {"task_id": one, "generation": _ANSWERS[one]} for one in ("p_1", "p_2", "p_3")
    ]
    assert submit_command("structured", out, tasks) == 0
    assert "3 entries, in the order of" in capsys.readouterr().out
    with pytest.raises(UserError, match="already there"):
        submit_command("structured", made, tasks, out)
    with pytest.raises(UserError, match="predictions, not a submission"):
        submit_command("structured", made, tasks)


def test_a_submission_in_another_order_is_refused(tmp_path: Path, tasks: Path) -> None:
    path = submission(tmp_path / "s.json", "p_2", "p_1", "p_3")
    with pytest.raises(UserError, match="entry 1: found the id p_2, expected p_1"):
        submit_command("structured", path, tasks)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([{"task_id": "p_1"}], "entry 1: found task_id; expected an object with task_id and generation"),
        ([{"task_id": "p_1", "generation": None}], "entry 1: generation: found None, expected text"),
        ([{"task_id": 1, "generation": "x"}], "entry 1: task_id: found 1, expected text"),
        (["x"], "entry 1: found str"),
        ([], "nothing is in it"),
    ],
)
def test_what_is_no_submission_is_refused(tmp_path: Path, tasks: Path, value: object, told: str) -> None:
    with pytest.raises(UserError, match=told):
        submit_command("structured", written(tmp_path / "s.json", value), tasks)


def test_rows_of_the_pack_are_scored_in_the_modes_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tanren.common.task_packs import load_pack
    from tanren.evaluate.predictions import write_tasks

    rows = load_pack("structured", {"heldout_rows": 10}).rows("heldout")
    write_tasks(tmp_path / "tasks.jsonl", rows)
    made = [Prediction(row.id, row.reference, "0" * 16, "stop", 3, 2) for row in rows[:-1]]
    write_predictions(tmp_path / "p.jsonl", [*made, Prediction(rows[-1].id, "", "0" * 16, "length", 3, 2)])
    assert score_command("structured", tmp_path / "p.jsonl", tmp_path / "tasks.jsonl", as_json=True) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["n"], values["strict"]["valid"], values["strict"]["compared"]) == (10, 9, 10)


def test_a_pack_without_outside_tasks_says_so(tmp_path: Path, tasks: Path) -> None:
    with pytest.raises(UserError, match="the pack tes reads no outside tasks"):
        score_command("tes", submission(tmp_path / "s.json", "p_1"), tasks)
