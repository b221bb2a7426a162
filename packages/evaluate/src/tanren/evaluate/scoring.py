"""From predictions to scores: one verdict per item, shares with intervals per group and pooled, paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tanren.common.task_contract import Parsed, Row
from tanren.evaluate.predictions import Prediction, join
from tanren.evaluate.statistics import paired_difference, wilson

POOLED = "all"
METRICS = ("valid", "correct")


@dataclass(frozen=True)
class Judged:
    """One item with what was written and what it is worth."""

    row: Row
    prediction: Prediction
    parsed: Parsed

    def hit(self, metric: str) -> bool:
        """Whether the item counts for `metric`: valid or correct."""
        return self.parsed.correct if metric == "correct" else self.parsed.valid


def judge(
    rows: Sequence[Row], predictions: Sequence[Prediction], parse: Callable[[str, Row], Parsed], where: str
) -> list[Judged]:
    """Join predictions to tasks by id and judge each with the pack's own parser."""
    return [
        Judged(row, prediction, parse(prediction.completion, row)) for row, prediction in join(rows, predictions, where)
    ]


def answers_of(judged: Sequence[Judged]) -> list[tuple[Row, str]]:
    """Return the rows with the completions that answer them."""
    return [(item.row, item.prediction.completion) for item in judged]


def groups_of(judged: Sequence[Judged]) -> list[str]:
    """Return the groups in the order of their first item, and the pooled one last."""
    return [*dict.fromkeys(item.row.group for item in judged), POOLED]


def in_group(judged: Sequence[Judged], group: str) -> list[Judged]:
    """Return the items of a group (of all, for the pooled one)."""
    return [item for item in judged if group in (POOLED, item.row.group)]


def score(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return verdict counts, shares with Wilson's 95 % intervals by group and pooled, and how many were cut."""
    by_group = {}
    for group in groups_of(judged):
        items = in_group(judged, group)
        by_group[group] = {
            metric: share_values(sum(item.hit(metric) for item in items), len(items)) for metric in METRICS
        } | {"verdicts": dict(Counter(item.parsed.verdict.value for item in items))}
    cut = sum(item.prediction.finish_reason == "length" for item in judged)
    return {"n": len(judged), "cut_at_max_new_tokens": cut, "by_group": by_group}


def share_values(count: int, n: int) -> dict[str, Any]:
    """Return a share as it is recorded: count, n, value and interval."""
    share = wilson(count, n)
    return asdict(share) | {"value": share.value}


def compare(first: Sequence[Judged], second: Sequence[Judged]) -> dict[str, Any]:
    """Return the paired differences (second minus first) by group and pooled, for each metric."""
    return {
        group: {
            metric: asdict(
                paired_difference(
                    [item.hit(metric) for item in in_group(first, group)],
                    [item.hit(metric) for item in in_group(second, group)],
                )
            )
            for metric in METRICS
        }
        for group in groups_of(first)
    }
