"""From predictions to scores, and the same scores again from the files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tanren.common.task_contract import Parsed, Row, Verdict
from tanren.common.task_packs import load_pack
from tanren.evaluate.predictions import Prediction, write_predictions, write_tasks
from tanren.evaluate.scoring import Judged, compare, groups_of, in_group, judge, score
from tanren.evaluate.table import comparison_table, percent, points, score_table

Predict = Callable[..., Prediction]
COMPLETIONS = {"ash": "ASH", "oak": "oak", "birch": "", "maple": "MAPLES"}


def _parse(completion: str, row: Row) -> Parsed:
    if not completion:
        return Parsed(Verdict.ABSENT)
    if not completion.isupper():
        return Parsed(Verdict.UNPARSABLE)
    return Parsed(Verdict.CORRECT if completion == row.expected else Verdict.WRONG, completion)


@pytest.fixture
def judged(rows: list[Row], predict: Predict) -> list[Judged]:
    given = [predict(identity, text, cut=identity == "maple") for identity, text in COMPLETIONS.items()]
    return judge(rows, given, _parse, "p.jsonl")


def test_scores_count_verdicts_by_group_and_pooled(judged: list[Judged]) -> None:
    scores = score(judged)
    assert (scores["n"], scores["cut_at_max_new_tokens"]) == (4, 1)
    assert list(scores["by_group"]) == ["short", "long", "all"]
    counts = {
        group: (values["valid"]["count"], values["correct"]["count"], values["valid"]["n"])
        for group, values in scores["by_group"].items()
    }
    assert counts == {"short": (1, 1, 2), "long": (1, 0, 2), "all": (2, 1, 4)}
    assert scores["by_group"]["all"]["verdicts"] == {"correct": 1, "unparsable": 1, "absent": 1, "wrong": 1}
    assert scores["by_group"]["all"]["correct"]["value"] == 0.25


def test_groups_partition_the_items(judged: list[Judged]) -> None:
    *groups, pooled = groups_of(judged)
    assert sum(len(in_group(judged, group)) for group in groups) == len(in_group(judged, pooled)) == 4


def test_a_comparison_pairs_the_items(rows: list[Row], predict: Predict, judged: list[Judged]) -> None:
    better = judge(rows, [predict(row.id, row.reference) for row in rows], _parse, "q.jsonl")
    difference = compare(judged, better)
    found = {group: (values["correct"]["gained"], values["correct"]["lost"]) for group, values in difference.items()}
    assert found == {"short": (1, 0), "long": (2, 0), "all": (3, 0)}
    assert difference["all"]["correct"]["value"] == 0.75
    assert difference["all"]["correct"]["p"] == 0.25  # three of three to one side: 2/8
    text = comparison_table("length", {"a": score(judged), "b": score(better)}, difference, "a", "b")
    assert [line.split()[1] for line in text.splitlines() if "short" in line or "all" in line]
    assert "+75 [" in text


def test_tables_write_percent_and_points(judged: list[Judged]) -> None:
    assert percent({"value": 0.351, "low": 0.226, "high": 0.494}) == "35 [23-49]"
    assert points({"value": 0.42, "low": -0.03, "high": 0.54}) == "+42 [-3 to +54]"
    text = score_table("length", score(judged), "base")
    assert "1 correct, 1 unparsable, 1 absent, 1 wrong" in text
    assert text.splitlines()[0].strip() == "base: percent [95 % interval]"


@pytest.fixture
def evaluated(tmp_path: Path, pack_folder: Path, predict: Predict) -> tuple[Path, Path]:
    """Return the pack's folder and predictions as an evaluation leaves them: half of them right."""
    rows = load_pack(str(pack_folder)).rows("heldout")
    folder = tmp_path / "evaluation"
    write_tasks(folder / "tasks.jsonl", rows)
    path = folder / "base" / "predictions.jsonl"
    write_predictions(
        path, [predict(row.id, row.reference if index % 2 else "\u2028") for index, row in enumerate(rows)]
    )
    return pack_folder, path


def test_scoring_is_repeated_from_the_files_alone(
    command: Callable[..., Any], evaluated: tuple[Path, Path], tmp_path: Path
) -> None:
    pack, predictions = evaluated
    table = command("tanren.evaluate.cli", "score", str(pack), str(predictions))
    assert (table.code, table.heavy) == (0, ""), table.err
    assert "2 absent, 2 correct" in table.out
    answer = command("tanren.evaluate.cli", "score", str(pack), str(predictions), "--json")
    assert json.loads(answer.out)["by_group"]["all"]["correct"] == pytest.approx(
        {"count": 2, "n": 4, "value": 0.5, "low": 0.15004, "high": 0.84996}, abs=1e-5
    )
    moved = tmp_path / "tasks-elsewhere.jsonl"
    (predictions.parent.parent / "tasks.jsonl").rename(moved)
    refused = command("tanren.evaluate.cli", "score", str(pack), str(predictions))
    assert refused.code == 2
    assert "--tasks FILE" in refused.err
    again = command("tanren.evaluate.cli", "score", str(pack), str(predictions), "--tasks", str(moved), "--json")
    assert again.out == answer.out
