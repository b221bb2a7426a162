"""Metrics that a pack adds: quotients of sums, their intervals, paired differences, mistakes by kind."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack, load_pack
from tanren.evaluate.measures import pack_differences, pack_scores, pack_tables

# Of each answer, the words right and the words written: "3 of 4".
CODE = """

def measures(completion, row):
    from tanren.common.task_contract import Ratio

    right, _, written = completion.partition(" of ")
    return {
        "precision": Ratio(int(right), int(written)),
        "some": Ratio(int(right) > 0, 1),
        "never": Ratio(0, 0),
    }


def mistakes(completion, row):
    from tanren.common.task_contract import Mistake

    right, _, written = completion.partition(" of ")
    return [Mistake("word", row.id, "one", "another")] * (int(written) - int(right))
"""
FIRST = ["3 of 4", "0 of 2", "2 of 2", "1 of 4", "5 of 5", "0 of 3", "2 of 4", "4 of 4", "1 of 2", "0 of 0"]
SECOND = ["4 of 4", "1 of 2", "2 of 2", "1 of 4", "5 of 5", "2 of 3", "2 of 4", "4 of 4", "1 of 2", "1 of 1"]


@pytest.fixture
def pack(pack_folder: Path) -> TaskPack:
    path = pack_folder / "task.py"
    path.write_text(path.read_text(encoding="utf-8") + CODE, encoding="utf-8")
    return load_pack(str(pack_folder))


def _answers(pack: TaskPack, completions: Sequence[str]) -> list[tuple[Row, list[str]]]:
    row = pack.rows("train")[0]
    return [(replace(row, id=f"r{number}"), [text]) for number, text in enumerate(completions)]


def _bootstrap(value: Callable[[list[int]], float], n: int, draws: int = 20_000) -> tuple[float, float]:
    """Return the percentile interval, drawn with another generator, item by item."""
    rng = random.Random(7)
    found = sorted(value([rng.randrange(n) for _ in range(n)]) for _ in range(draws))
    return found[int(0.025 * draws)], found[int(0.975 * draws)]


def _precision(completions: Sequence[str], drawn: Sequence[int]) -> float:
    pairs = [completions[index].split(" of ") for index in drawn]
    return sum(int(right) for right, _ in pairs) / sum(int(written) for _, written in pairs)


def test_a_metric_is_the_quotient_of_the_sums_with_the_interval_of_a_bootstrap(pack: TaskPack) -> None:
    found = pack_scores(pack, _answers(pack, FIRST))["measures"]["precision"]
    assert (found["count"], found["n"], found["value"]) == (18, 30, pytest.approx(18 / 30))
    low, high = _bootstrap(lambda drawn: _precision(FIRST, drawn), len(FIRST))
    assert found["low"] == pytest.approx(low, abs=0.02)
    assert found["high"] == pytest.approx(high, abs=0.02)


def test_a_share_has_wilsons_interval(pack: TaskPack) -> None:
    found = pack_scores(pack, _answers(pack, FIRST))["measures"]["some"]
    # 7 of 10 by Wilson's formula, worked out apart: centre (0.7 + 0.19207) / 1.38415, half-width 0.24772.
    assert (found["count"], found["n"]) == (7, 10)
    assert found["low"] == pytest.approx(0.3968, abs=2e-4)
    assert found["high"] == pytest.approx(0.8922, abs=2e-4)


def test_what_has_nothing_to_count_is_null(pack: TaskPack) -> None:
    found = pack_scores(pack, _answers(pack, FIRST))["measures"]["never"]
    assert found["value"] is None
    json.dumps(found, allow_nan=False)


def test_differences_are_paired_over_the_same_items(pack: TaskPack) -> None:
    found = pack_differences(pack, _answers(pack, FIRST), _answers(pack, SECOND))
    assert found["precision"]["value"] == pytest.approx(23 / 31 - 18 / 30)
    low, high = _bootstrap(lambda drawn: _precision(SECOND, drawn) - _precision(FIRST, drawn), len(FIRST))
    assert found["precision"]["low"] == pytest.approx(low, abs=0.02)
    assert found["precision"]["high"] == pytest.approx(high, abs=0.02)
    assert found["some"]["value"] == pytest.approx(0.3)
    assert found["some"]["low"] < 0.3 < found["some"]["high"]
    assert pack_differences(pack, _answers(pack, FIRST), _answers(pack, FIRST))["precision"] == {
        "value": 0.0, "low": None, "high": None, "n": 10,
    }  # fmt: skip


def test_several_samples_of_an_item_are_drawn_together(pack: TaskPack) -> None:
    row = pack.rows("train")[0]
    twice = [(replace(row, id=f"r{n}"), [one, two]) for n, (one, two) in enumerate(zip(FIRST, SECOND, strict=True))]
    found = pack_scores(pack, twice)["measures"]["precision"]
    assert found["value"] == pytest.approx((18 + 23) / (30 + 31))
    low, high = _bootstrap(
        lambda drawn: _precision([*FIRST, *SECOND], [*drawn, *(n + len(FIRST) for n in drawn)]), len(FIRST)
    )
    assert found["low"] == pytest.approx(low, abs=0.02)
    assert found["high"] == pytest.approx(high, abs=0.02)


def test_of_a_handful_of_items_no_interval_is_told(pack: TaskPack) -> None:
    found = pack_scores(pack, _answers(pack, FIRST[:4]))["measures"]["precision"]
    assert (found["low"], found["high"]) == (None, None)


def test_the_same_answers_give_the_same_intervals(pack: TaskPack) -> None:
    assert pack_scores(pack, _answers(pack, FIRST)) == pack_scores(pack, _answers(pack, FIRST))


def test_mistakes_are_counted_by_kind_with_twenty_examples(pack: TaskPack) -> None:
    found = pack_scores(pack, _answers(pack, ["0 of 30", "1 of 2"]))["mistakes"]
    assert found["word"]["count"] == 31
    assert len(found["word"]["examples"]) == 20
    assert found["word"]["examples"][0] == {
        "id": "r0",
        "kind": "word",
        "where": "r0",
        "found": "one",
        "expected": "another",
    }


def test_tables_name_every_metric_and_candidate(pack: TaskPack) -> None:
    scores: dict[str, Any] = {
        name: pack_scores(pack, _answers(pack, completions)) for name, completions in (("base", FIRST), ("new", SECOND))
    }
    differences = pack_differences(pack, _answers(pack, FIRST), _answers(pack, SECOND))
    text = "\n".join(pack_tables("shout", scores, differences))
    for part in (
        "precision",
        "0.600 [",
        "difference",
        "nothing to count",
        "+0.142 [+",
        "base: mistakes: 12 word",
        "new: mistakes: 8 word",
    ):
        assert part in text


def test_a_pack_without_metrics_adds_nothing(pack_folder: Path) -> None:
    plain = load_pack(str(pack_folder))
    assert pack_scores(plain, _answers(plain, ["ASH"])) == {}
    assert pack_tables("shout", {"base": {}}) == []
