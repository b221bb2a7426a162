"""From predictions to scores: one verdict per item, shares with intervals per group and pooled, paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from tanren.common.task_contract import Parsed, Row
from tanren.evaluate.predictions import Prediction, join
from tanren.evaluate.samples import VoteKey, by_value, majority, pass_at, sizes
from tanren.evaluate.statistics import mean_of, paired_difference_of_means, wilson

POOLED = "all"
METRICS = ("valid", "correct")


@dataclass(frozen=True)
class Judged:
    """One item with what was written and what it is worth. Of several samples: the first, with the others behind it."""

    row: Row
    prediction: Prediction
    parsed: Parsed
    others: tuple[tuple[Prediction, Parsed], ...] = ()

    @property
    def samples(self) -> list[tuple[Prediction, Parsed]]:
        """All that was written for the item."""
        return [(self.prediction, self.parsed), *self.others]

    def hits(self, metric: str) -> int:
        """How many of its samples count for `metric`: valid or correct."""
        return sum(_hit(parsed, metric) for _, parsed in self.samples)

    def value(self, metric: str) -> float:
        """The share of its samples that do: 0 or 1 of a single one."""
        return self.hits(metric) / len(self.samples)


def judge(
    rows: Sequence[Row], predictions: Sequence[Prediction], parse: Callable[[str, Row], Parsed], where: str
) -> list[Judged]:
    """Join predictions to tasks by id and judge each with the pack's own parser; one result for each task."""
    found = []
    for _, pairs in groupby(join(rows, predictions, where), key=lambda pair: pair[0].id):
        (row, first), *others = pairs
        rest = tuple((other, parse(other.completion, row)) for _, other in others)
        found.append(Judged(row, first, parse(first.completion, row), rest))
    return found


def groups_of(judged: Sequence[Judged]) -> list[str]:
    """Return the groups in the order of their first item, and the pooled one last."""
    return [*dict.fromkeys(item.row.group for item in judged), POOLED]


def in_group(judged: Sequence[Judged], group: str) -> list[Judged]:
    """Return the items of a group (of all, for the pooled one)."""
    return [item for item in judged if group in (POOLED, item.row.group)]


def score(judged: Sequence[Judged], vote_key: VoteKey = by_value) -> dict[str, Any]:
    """Return verdict counts, shares with 95 % intervals by group and pooled, and how many were cut.

    `judged_by` is the metric by which candidates are ranked: valid where not every item can be compared with something, and then
    correct is a share of those that can.

    Of several samples `valid` and `correct` are means over the items of their samples' shares; beside them stand pass@k
    (arXiv:2107.03374) and what the majority's answers are worth, answers being compared by `vote_key`.
    """
    samples, metric = len(judged[0].samples) if judged else 1, judging_metric(judged)
    by_group = {}
    for group in groups_of(judged):
        items = in_group(judged, group)
        written = [parsed.verdict.value for item in items for _, parsed in item.samples]
        by_group[group] = {name: _values(items, name, samples) for name in METRICS} | {
            "verdicts": dict(Counter(written))
        }
        if samples > 1:
            by_group[group] |= _of_samples(items, samples, vote_key, metric)
    reasons = Counter(prediction.finish_reason for item in judged for prediction, _ in item.samples)
    scores: dict[str, Any] = {"n": len(judged), "judged_by": metric}
    scores |= {"cut_at_max_new_tokens": reasons["length"], "by_group": by_group}
    other = {reason: count for reason, count in reasons.items() if reason not in ("stop", "length")}
    if other:  # a server's filter, for one: such an answer says nothing about the model
        scores["ended_otherwise"] = other
    return scores if samples == 1 else {"samples": samples} | scores


def share_values(count: int, n: int) -> dict[str, Any]:
    """Return a share as it is recorded: count, n, value and interval; of no items no value."""
    share = wilson(count, n)
    return asdict(share) | {"value": share.value if n else None}


def counted(judged: Sequence[Judged], metric: str) -> list[Judged]:
    """Return the items that a metric is over: valid of all, correct of those that are compared with something."""
    return [item for item in judged if metric != "correct" or item.row.compared]


def judging_metric(judged: Sequence[Judged]) -> str:
    """Return by which metric candidates are ranked: correct where every item is compared with something, else valid."""
    return "correct" if all(item.row.compared for item in judged) else "valid"


def difference_of(first: Sequence[Judged], second: Sequence[Judged], metric: str) -> dict[str, Any]:
    """Return a paired difference (second minus first) as it is recorded; over no items it has no value."""
    pairs = [
        (one.value(metric), two.value(metric))
        for one, two in zip(counted(first, metric), counted(second, metric), strict=True)
    ]
    found = asdict(paired_difference_of_means([one for one, _ in pairs], [two for _, two in pairs]))
    return found if pairs else found | {"value": None}


def compare(first: Sequence[Judged], second: Sequence[Judged]) -> dict[str, Any]:
    """Return the paired differences (second minus first) by group and pooled, for each metric."""
    return {
        group: {metric: difference_of(in_group(first, group), in_group(second, group), metric) for metric in METRICS}
        for group in groups_of(first)
    }


def _hit(parsed: Parsed, metric: str) -> bool:
    return parsed.correct if metric == "correct" else parsed.valid


def _values(items: Sequence[Judged], metric: str, samples: int) -> dict[str, Any]:
    items = counted(items, metric)
    if samples == 1 or not items:
        return share_values(sum(item.hits(metric) for item in items), len(items))
    return asdict(mean_of([item.value(metric) for item in items]))


def _of_samples(items: Sequence[Judged], samples: int, vote_key: VoteKey, metric: str) -> dict[str, Any]:
    """Return what several samples come to together; pass@k by `metric`."""

    def share_of(metric: str) -> dict[str, Any]:
        over = counted(items, metric)
        votes = [majority([parsed for _, parsed in item.samples], item.row, vote_key) for item in over]
        return share_values(sum(_hit(vote, metric) for vote in votes), len(votes))

    return {
        "pass_at": {
            str(k): asdict(mean_of([pass_at(k, samples, item.hits(metric)) for item in items])) for k in sizes(samples)
        },
        "majority": {metric: share_of(metric) for metric in METRICS},
    }
