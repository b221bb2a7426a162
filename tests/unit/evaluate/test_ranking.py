"""Which of many differences are noise, and what choosing the best costs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tanren.common.errors import UserError
from tanren.common.task_contract import Parsed, Row, Verdict
from tanren.common.task_packs import load_pack
from tanren.evaluate.bootstrap import interval_of_mean
from tanren.evaluate.predictions import Prediction
from tanren.evaluate.ranking import Standings, check_rank_by, letters, rank, select, standings
from tanren.evaluate.scoring import Judged
from tanren.evaluate.statistics import holm, mean_of, paired_difference, paired_difference_of_means, wilson

PACK = load_pack("structured")
Predict = Callable[..., Prediction]


def _judged(hits: Sequence[bool], predict: Predict) -> list[Judged]:
    return [
        Judged(Row(str(index), (), "", "g"), predict(str(index)), Parsed(Verdict.CORRECT if hit else Verdict.WRONG, 0))
        for index, hit in enumerate(hits)
    ]


def _standings(hits: Mapping[str, Sequence[bool]], predict: Predict) -> Standings:
    return standings({name: _judged(own, predict) for name, own in hits.items()}, PACK)


def _first(count: int, n: int) -> list[bool]:
    return [index < count for index in range(n)]


def test_holm_multiplies_the_smallest_most_and_never_turns_the_order_round() -> None:
    # by hand: 4 x 0.01, 3 x 0.013 (raised to the one before), 2 x 0.02 (the same), 1 x 0.5
    assert holm([0.5, 0.01, 0.02, 0.013]) == pytest.approx([0.5, 0.04, 0.04, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_candidates_that_cannot_be_told_apart_share_a_letter(predict: Predict) -> None:
    counts = {"low": 10, "high": 80, "middle": 40, "near-high": 77}
    ranking = rank(_standings({name: _first(count, 100) for name, count in counts.items()}, predict))
    assert [one["name"] for one in ranking["order"]] == ["high", "near-high", "middle", "low"]
    assert ranking["groups"] == [["high", "near-high"], ["middle"], ["low"]]
    assert [letters(ranking["groups"], name) for name in counts] == ["c", "a", "b", "a"]
    close = next(pair for pair in ranking["pairs"] if (pair["better"], pair["worse"]) == ("high", "near-high"))
    assert (close["gained"], close["lost"], close["p"], close["p_holm"]) == (3, 0, 0.25, 0.25)
    assert len(ranking["pairs"]) == 6


def test_a_candidate_between_two_that_differ_is_in_both_groups(predict: Predict) -> None:
    counts = {"a": 59, "b": 55, "c": 51}  # 8 of 8 to one side: p = 0.0078; 4 of 4: 0.125
    ranking = rank(_standings({name: _first(count, 100) for name, count in counts.items()}, predict))
    assert ranking["groups"] == [["a", "b"], ["b", "c"]]
    assert letters(ranking["groups"], "b") == "a b"


def test_without_the_correction_pure_noise_would_be_ranked_far_more_often(predict: Predict) -> None:
    draws, plain, corrected = random.Random(0), 0, 0
    for _ in range(60):
        hits = {str(index): [draws.random() < 0.5 for _ in range(60)] for index in range(8)}
        pairs = rank(_standings(hits, predict))["pairs"]
        plain += any(pair["p"] < 0.05 for pair in pairs)
        corrected += any(pair["p_holm"] < 0.05 for pair in pairs)
    assert plain > 20
    assert corrected <= 6  # 5 % of 60, and a little chance


def test_the_best_by_chance_is_reported_without_its_luck(predict: Predict) -> None:
    draws, lucky, honest = random.Random(1), [], []
    for seed in range(40):
        ranked = _standings({str(index): [draws.random() < 0.5 for _ in range(100)] for index in range(10)}, predict)
        lucky.append(rank(ranked)["order"][0]["value"])
        found = select(ranked, 0.4, seed, "0")
        assert (found["on_selection"]["0"]["n"], found["on_rest"]["0"]["n"]) == (40, 60)
        honest.append(found["on_rest"][found["chosen"]]["value"])
    assert np.mean(lucky) > 0.55
    assert np.mean(honest) == pytest.approx(0.5, abs=0.025)


def test_a_selection_is_a_split_by_item_and_repeats(predict: Predict) -> None:
    ranked = _standings({"base": _first(2, 10), "best": _first(9, 10)}, predict)
    found = select(ranked, 0.3, 7, "base")
    assert found == select(ranked, 0.3, 7, "base")
    assert found["selection_ids"] != select(ranked, 0.3, 8, "base")["selection_ids"]
    assert (found["chosen"], len(found["selection_ids"]), found["difference"]["n"]) == ("best", 3, 7)
    values: Mapping[str, Any] = found["on_selection"]["best"]
    assert values["n"] + found["on_rest"]["best"]["n"] == 10


def test_a_mode_has_a_ranking_of_its_own(predict: Predict) -> None:
    rows = [Row(str(index), (), "", "json", expected={"a": 1}) for index in range(40)]
    fenced, bare, open_end = '```json\n{"a": 1}\n```', '{"a": 1}', '{"a": 1'
    answers = {"fenced": [fenced] * 40, "bare": [bare] * 30 + [open_end] * 10}
    judged = {
        name: [Judged(row, predict(row.id, text), PACK.parse(text, row)) for row, text in zip(rows, own, strict=True)]
        for name, own in answers.items()
    }
    orders = {
        by: [(one["name"], one["value"]) for one in rank(standings(judged, PACK, by))["order"]]
        for by in ("lenient", "strict")
    }
    assert orders == {"lenient": [("fenced", 1.0), ("bare", 0.75)], "strict": [("bare", 0.75), ("fenced", 0.0)]}
    ranking = rank(standings(judged, PACK, "strict"))
    assert (ranking["metric"], ranking["reference"]) == ("strict", "fenced")
    assert (ranking["differences"]["bare"]["gained"], ranking["differences"]["bare"]["lost"]) == (30, 0)
    with pytest.raises(UserError, match="ranked by valid, correct, lenient, strict, compatible"):
        check_rank_by(PACK, rows, "lenjent")
    with pytest.raises(UserError, match="none of the 40 items is judged by it"):
        check_rank_by(PACK, rows, "compatible")  # no task has paths


def test_a_mean_of_yes_and_no_is_a_share_and_its_difference_that_of_shares() -> None:
    share, mean = wilson(3, 10), mean_of([1.0] * 3 + [0.0] * 7)
    assert (mean.low, mean.high, mean.value) == (share.low, share.high, share.value)
    first, second = [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]
    expected = paired_difference([bool(value) for value in first], [bool(value) for value in second])
    assert paired_difference_of_means(first, second) == expected


def test_the_bootstrap_interval_is_that_of_the_normal_approximation_for_many_items() -> None:
    values = [(index % 7) / 6 for index in range(700)]
    low, high = interval_of_mean(values, 0, 1)
    half = 1.96 * np.std(values) / np.sqrt(len(values))
    assert [low, high] == pytest.approx([0.5 - half, 0.5 + half], abs=0.003)
    assert interval_of_mean(values, 0, 1) == (low, high)
    assert interval_of_mean([0.5, 0.25], 0, 1) == (0, 1)
