"""Metrics that a task pack adds, with intervals, their paired differences, and its mistakes by kind.

A pack says what each answer adds to a metric's numerator and denominator (`measures`); the metric is the quotient of the sums.
So whatever it is (a rate, a precision, a mean, an F1), its interval follows from drawing the items again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from tanren.common.task_contract import Mistake, Ratio, Row
from tanren.common.task_packs import TaskPack
from tanren.evaluate.bootstrap import LEAST_ITEMS, resampled_sums
from tanren.evaluate.scoring import Judged
from tanren.evaluate.statistics import paired_difference, wilson
from tanren.evaluate.table import render

MEASURES, MISTAKES = "measures", "mistakes"
EXAMPLES = 20
"""Mistakes of each kind that are kept with the scores."""

Floats = NDArray[np.float64]
Answers = Sequence[tuple[Row, Sequence[str]]]
"""Rows, each with the completions that answer it: one, or several samples."""

Sums = tuple[Floats, Floats]
"""Of one metric, the numerators and the denominators of the items, in their order, of several samples their means; each (items,)."""


def answers_of(judged: Sequence[Judged]) -> Answers:
    """Return the rows of judged items with their completions."""
    return [(item.row, [prediction.completion for prediction, _ in item.samples]) for item in judged]


def answers_to(pairs: Sequence[tuple[Row, str]]) -> Answers:
    """Return rows with their completions from pairs of a row and a completion; samples of a row follow one another."""
    return [
        (same[0][0], [completion for _, completion in same])
        for same in (list(group) for _, group in groupby(pairs, key=lambda pair: pair[0].id))
    ]


def pack_scores(pack: TaskPack, answers: Answers) -> dict[str, Any]:
    """Return the pack's own metrics with 95 % intervals and its mistakes by kind; {} where it has neither."""
    values: dict[str, Any] = {}
    sums = _sums(pack, answers)
    if sums:
        values[MEASURES] = _with_intervals(sums)
    if hasattr(pack.module, "mistakes"):
        values[MISTAKES] = _by_kind(pack, answers)
    return values


def pack_differences(pack: TaskPack, first: Answers, second: Answers) -> dict[str, Any]:
    """Return the differences of the pack's metrics (second minus first) over the same items, with 95 % intervals."""
    one, two = _sums(pack, first), _sums(pack, second)
    drawn = _drawn([*one.values(), *two.values()])
    found: dict[str, Any] = {}
    for name, before, after in zip(one, drawn[: len(one)], drawn[len(one) :], strict=True):
        if all(_is_share(*sums) and sums[1].all() for sums in (one[name], two[name])):
            hits = [[bool(hit) for hit in above] for above, _ in (one[name], two[name])]
            shares = paired_difference(*hits)
            found[name] = {"value": shares.value, "low": shares.low, "high": shares.high, "n": len(first)}
            continue
        low, high = _bounds(after - before)
        value = _number(_quotient(*two[name]) - _quotient(*one[name]))
        found[name] = {"value": value, "low": low, "high": high, "n": len(first)}
    return found


def pack_tables(task: str, candidates: Mapping[str, Any], differences: Mapping[str, Any] | None = None) -> list[str]:
    """Return the metrics in candidates' scores as a text table, and their mistakes in a line each; [] where there are none."""
    columns = {name: scores[MEASURES] for name, scores in candidates.items() if MEASURES in scores}
    found = [_table(columns, differences or {}, task)] if columns else []
    return found + [f"{name}: {_mistakes(one[MISTAKES])}" for name, one in candidates.items() if MISTAKES in one]


def _table(columns: Mapping[str, Mapping[str, Any]], differences: Mapping[str, Any], task: str) -> str:
    table = Table(title=f"Metrics of the pack {task}: value [95 % interval]")
    table.add_column("metric", overflow="fold")
    for name in (*columns, *(["difference"] if differences else [])):
        table.add_column(name, justify="right")
    for metric in next(iter(columns.values())):
        cells = [measure_cell(found[metric]) for found in columns.values()]
        table.add_row(metric, *cells, *([difference_cell(differences[metric])] if differences else []))
    return render(table)


def _mistakes(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    return "mistakes: " + (", ".join(f"{found['count']} {kind}" for kind, found in kinds.items()) or "none")


def measure_cell(found: Mapping[str, Any]) -> str:
    """Return a metric as text, with its interval where it has one: `0.821 [0.686-0.926]`."""
    if found["value"] is None:
        return "nothing to count"
    return f"{found['value']:.3f}" + (f" [{found['low']:.3f}-{found['high']:.3f}]" if found["low"] is not None else "")


def difference_cell(found: Mapping[str, Any]) -> str:
    """Return a difference as text, with its interval where it has one: `+0.821 [+0.686 to +0.926]`."""
    if found["value"] is None:
        return "nothing to count"
    interval = f" [{found['low']:+.3f} to {found['high']:+.3f}]" if found["low"] is not None else ""
    return f"{found['value']:+.3f}{interval}"


def _sums(pack: TaskPack, answers: Answers) -> dict[str, Sums]:
    measures = getattr(pack.module, "measures", None)
    if measures is None or not answers:
        return {}
    found: list[list[dict[str, Ratio]]] = [[measures(text, row) for text in texts] for row, texts in answers]
    names = dict.fromkeys(name for samples in found for one in samples for name in one)
    none = Ratio(0, 0)  # a metric that an answer says nothing about
    sums = {}
    for name in names:
        ratios = [[one.get(name, none) for one in samples] for samples in found]
        above = np.array([sum(one.numerator for one in samples) / len(samples) for samples in ratios])
        below = np.array([sum(one.denominator for one in samples) / len(samples) for samples in ratios])
        sums[name] = (above, below)
    return sums


def _with_intervals(sums: Mapping[str, Sums]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for (name, (above, below)), drawn in zip(sums.items(), _drawn(list(sums.values())), strict=True):
        total, n = float(above.sum()), float(below.sum())
        if _is_share(
            above, below
        ):  # Wilson's interval keeps its width where all items agree; a bootstrap has none then
            share = wilson(int(total), int(n))
            values[name] = asdict(share) | {"value": _number(share.value)}
        else:
            low, high = _bounds(drawn)
            values[name] = {"count": total, "n": n, "low": low, "high": high, "value": _number(_quotient(above, below))}
    return values


def _is_share(above: Floats, below: Floats) -> bool:
    return bool(np.isin(above, (0, 1)).all() and np.isin(below, (0, 1)).all() and (above <= below).all())


def _drawn(sums: Sequence[Sums]) -> list[Floats]:
    """Return the metrics of items that are drawn again, each (draws,); the same draws for all of them."""
    if not sums:
        return []
    if len(sums[0][0]) < LEAST_ITEMS:
        return [np.full(1, math.nan)] * len(sums)
    drawn = resampled_sums(np.stack([column for pair in sums for column in pair], axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return list((drawn[:, 0::2] / drawn[:, 1::2]).T)


def _quotient(above: Floats, below: Floats) -> float:
    total = float(below.sum())
    return float(above.sum()) / total if total else math.nan


def _bounds(values: Floats) -> tuple[float | None, float | None]:
    """Return the 2.5 and 97.5 % points; None where draws often have nothing to count, or all agree: they say nothing then."""
    known = values[np.isfinite(values)]
    if len(known) < 0.975 * len(values):
        return None, None
    low, high = (float(bound) for bound in np.quantile(known, (0.025, 0.975)))
    return (low, high) if low < high else (None, None)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _by_kind(pack: TaskPack, answers: Answers) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    examples: dict[str, list[dict[str, str]]] = {}
    judge: Callable[[str, Row], list[Mistake]] = getattr(pack.module, MISTAKES)
    for row, completions in answers:
        for mistake in (one for completion in completions for one in judge(completion, row)):
            counts[mistake.kind] += 1
            kept = examples.setdefault(mistake.kind, [])
            if len(kept) < EXAMPLES:
                kept.append({"id": row.id} | {key: _writable(text) for key, text in asdict(mistake).items()})
    return {kind: {"count": count, "examples": examples[kind]} for kind, count in counts.most_common()}


def _writable(text: str) -> str:
    """Return a text as it can stand in a file: half a character, which JSON can escape, as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()
