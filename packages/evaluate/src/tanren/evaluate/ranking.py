"""Many candidates on the same items: their order, which differences are noise, and the best by a part of the items."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from tanren.common.errors import UserError
from tanren.common.task_contract import Row
from tanren.common.task_packs import TaskPack
from tanren.evaluate.modes import item_values, values_by_mode
from tanren.evaluate.scoring import METRICS, Judged, counted, judging_metric
from tanren.evaluate.statistics import holm, mean_of, paired_difference_of_means

LEVEL = 0.05
"""A difference counts where p, corrected for the number of pairs, is below it."""
_NO_CHOICE = 2


@dataclass(frozen=True)
class Standings:
    """What candidates are ranked by: the value of every item for each of them, from 0 to 1, the items in the order of `ids`."""

    metric: str
    ids: Sequence[str]
    values: Mapping[str, Sequence[float]]


def check_rank_by(pack: TaskPack, rows: Sequence[Row], by: str | None) -> None:
    """Raise UserError for a name of nothing that candidates can be ranked by, on these items."""
    if by is None:
        return
    modes = values_by_mode(pack, [""] * len(rows), rows)
    judged = {mode: [value is not None for value in values] for mode, values in modes.items()}
    judged = {"valid": [True] * len(rows), "correct": [row.compared for row in rows]} | judged
    if by not in judged:
        raise UserError(
            f"rank_by = {by!r}: with the pack {pack.description.name} candidates can be ranked by {', '.join(judged)}"
        )
    if not any(judged[by]):
        raise UserError(f"rank_by = {by!r}: none of the {len(rows)} items is judged by it")


def standings(judged: Mapping[str, Sequence[Judged]], pack: TaskPack, by: str | None = None) -> Standings:
    """Return what is ranked: by the share of correct answers; where not every item can be compared with something, of valid ones.

    `by`: a metric, or one of the pack's modes (`check_rank_by`); over the items that it judges.
    """
    items = next(iter(judged.values()))
    metric = judging_metric(items) if by is None else by
    if metric in METRICS:
        ids = [item.row.id for item in counted(items, metric)]
        shares = {name: [item.value(metric) for item in counted(own, metric)] for name, own in judged.items()}
        return Standings(metric, ids, shares)
    values = {name: item_values(pack, own, metric) for name, own in judged.items()}
    ids = [item.row.id for item, value in zip(items, next(iter(values.values())), strict=True) if value is not None]
    return Standings(metric, ids, {name: [value for value in own if value is not None] for name, own in values.items()})


def rank(standings: Standings) -> dict[str, Any]:
    """Return the candidates by the mean over their items, the best first, and every pair's difference.

    p is that of McNemar's exact test (of several samples: the exact sign test), corrected by Holm for the number of pairs.
    `differences` are those of the others to the first, the `reference`.
    `groups` are the largest sets of candidates that cannot be told apart from one another; one may be in several.
    """
    values = standings.values
    means = {name: mean_of(numbers) for name, numbers in values.items()}
    order = sorted(values, key=lambda name: -means[name].value)
    pairs = list(combinations(order, 2))
    found = [paired_difference_of_means(values[worse], values[better]) for better, worse in pairs]
    reference, *others = values
    adjusted = holm([difference.p for difference in found])
    alike = {frozenset(pair) for pair, p in zip(pairs, adjusted, strict=True) if p >= LEVEL}
    return {
        "metric": standings.metric,
        "level": LEVEL,
        "order": [{"name": name, **asdict(means[name])} for name in order],
        "pairs": [
            {"better": better, "worse": worse, **asdict(difference), "p_holm": p}
            for (better, worse), difference, p in zip(pairs, found, adjusted, strict=True)
        ],
        "reference": reference,
        "differences": {name: asdict(paired_difference_of_means(values[reference], values[name])) for name in others},
        "groups": _groups(order, alike),
    }


def letters(groups: Sequence[Sequence[str]], name: str) -> str:
    """Return the letters of the groups that a candidate is in: those who share one cannot be told apart."""
    return " ".join(_letter(number) for number, group in enumerate(groups) if name in group)


def choice_warning(candidates: int) -> str:
    """Return what is to be said where there is a choice and all items are reported on; nothing of one trained model beside its base."""
    if candidates <= _NO_CHOICE:
        return ""
    return (
        f"whoever takes the best of these {candidates} has chosen it on the items that it is reported on, and reports too much: choose on a "
        "part of them and report on the rest, or judge the chosen one on other items"
    )


def select(standings: Standings, share: float, seed: int, reference: str) -> dict[str, Any]:
    """Choose the best candidate on a share of the items, drawn by the seed, and judge it on the others.

    Of equal ones it is the first. `difference` is over the others, the chosen minus `reference`.
    """
    values, n = standings.values, len(standings.ids)
    count = min(max(1, round(share * n)), n - 1)
    drawn = set(random.Random(f"{seed}-selection").sample(range(n), count))  # noqa: S311 (a split, not a secret)
    means = {
        part: {
            name: mean_of([value for index, value in enumerate(own) if (index in drawn) == inside])
            for name, own in values.items()
        }
        for part, inside in (("selection", True), ("rest", False))
    }
    chosen = max(values, key=lambda name: means["selection"][name].value)
    rest = {
        name: [value for index, value in enumerate(values[name]) if index not in drawn] for name in (reference, chosen)
    }
    return {
        "metric": standings.metric,
        "share": share,
        "seed": seed,
        "chosen": chosen,
        "reference": reference,
        "on_selection": {name: asdict(mean) for name, mean in means["selection"].items()},
        "on_rest": {name: asdict(mean) for name, mean in means["rest"].items()},
        "difference": asdict(paired_difference_of_means(rest[reference], rest[chosen])),
        "selection_ids": [standings.ids[index] for index in sorted(drawn)],
    }


def _letter(number: int) -> str:
    return chr(ord("a") + number % 26) + ("" if number < 26 else str(number // 26))


def _groups(order: Sequence[str], alike: set[frozenset[str]]) -> list[list[str]]:
    """Return the largest sets in which all are alike (Bron and Kerbosch 1973), in the order of their best members."""
    near = {name: {other for other in order if frozenset((name, other)) in alike and other != name} for name in order}
    found: list[set[str]] = []

    def extend(group: set[str], possible: set[str], excluded: set[str]) -> None:
        if not possible and not excluded:
            found.append(group)
        pivot = max(possible | excluded, key=lambda name: len(near[name] & possible), default=None)
        for name in possible - (near[pivot] if pivot is not None else set()):
            extend(group | {name}, possible & near[name], excluded & near[name])
            possible = possible - {name}
            excluded = excluded | {name}

    extend(set(), set(order), set())
    listed = [[name for name in order if name in group] for group in found]
    return sorted(listed, key=lambda group: [order.index(name) for name in group])
