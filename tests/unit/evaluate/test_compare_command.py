"""`evaluate compare`: what several runs left, joined by id; what cannot be compared is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tanren.common.task_packs import load_pack
from tanren.evaluate.predictions import Prediction, write_predictions, write_tasks

Evaluate = Callable[..., int]


@pytest.fixture
def runs(work: Path, pack_folder: Path) -> list[str]:
    """Two runs as a training leaves them: one base, and two trained models."""
    pack = load_pack(str(pack_folder))
    rows = pack.rows("heldout")
    for name, right in (("first", 3), ("second", 4)):
        run = work / name
        run.mkdir()
        (run / "config.toml").write_text(f'[task]\nname = "{pack_folder}"\n', encoding="utf-8")
        evaluation = run / "evaluation"
        write_tasks(evaluation / "tasks.jsonl", rows)
        for candidate, count in (("base", 1), ("trained", right)):
            made = [
                Prediction(row.id, row.reference if index < count else "no", f"{index}" * 16, "stop", 3, 2)
                for index, row in enumerate(rows)
            ]
            write_predictions(evaluation / candidate / "predictions.jsonl", made)
    return ["first", "second"]


def test_all_candidates_of_all_runs_are_ranked_and_a_repeated_base_is_taken_once(
    runs: list[str], evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("compare", *runs, "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert "second/base: the same predictions as first/base, taken once" in err
    assert [one["name"] for one in found["ranking"]["order"]] == ["second/trained", "first/trained", "first/base"]
    assert found["reference"] == "first/base"
    assert found["differences"]["second/trained"]["all"]["correct"]["gained"] == 3
    assert found["ranking"]["groups"] == [["second/trained", "first/trained", "first/base"]]  # of four items
    assert "whoever takes the best of these 3 has chosen it" in err
    assert evaluate("compare", *runs, "--selection", "0.5") == 0
    table, err = capsys.readouterr()
    assert "Ranking by correct" in table
    assert "chosen on 2 items (drawn by seed 0)" in table
    assert "whoever takes the best" not in err
    assert evaluate("compare", *runs, "--seed", "3") == 2
    assert "--seed 3 has no effect without --selection" in capsys.readouterr().err
    assert evaluate("compare", "first/evaluation/trained", "second/evaluation/trained") == 0
    assert "first/base" not in capsys.readouterr().out


def _changed(path: str, before: str, after: str) -> None:
    file = Path(path)
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "before", "after", "told"),
    [
        ("evaluation/tasks.jsonl", "heldout-maple", "heldout-fir2", "1 only in the first (heldout-maple)"),
        ("evaluation/tasks.jsonl", '"expected": "MAPLE"', '"expected": "ACER"', "1 with another content (heldout-maple)"),
        ("evaluation/trained/predictions.jsonl", '"0000000000000000"', '"f"', "second/trained read other prompts than first/base for 1 of 4"),
        ("evaluation/trained/predictions.jsonl", "heldout-maple", "heldout-fir2", "1 missing ids (heldout-maple)"),
        ("config.toml", "name = ", "name = 'tes' # ", "the pack tes: they cannot be compared"),
    ],
)  # fmt: skip
def test_what_did_not_answer_the_same_is_refused(
    runs: list[str],
    evaluate: Evaluate,
    capsys: pytest.CaptureFixture[str],
    path: str,
    before: str,
    after: str,
    told: str,
) -> None:
    _changed(f"second/{path}", before, after)
    assert evaluate("compare", *runs) == 2
    assert told in capsys.readouterr().err


def test_a_folder_without_an_evaluation_is_told(
    runs: list[str], evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("compare", "first", "nowhere") == 2
    assert "nowhere: no evaluation there" in capsys.readouterr().err
    assert evaluate("compare", "first/evaluation/base") == 2
    assert "1 candidate to compare" in capsys.readouterr().err
