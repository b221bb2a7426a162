"""Scores and comparisons as tables for the terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tanren.evaluate.modes import mode_shares
from tanren.evaluate.ranking import letters
from tanren.evaluate.scoring import METRICS, POOLED

HELDOUT = "held-out items"


def percent(share: Mapping[str, Any]) -> str:
    """Return a share with its interval, in percent: `35 [23-49]`; a dash for one of no items."""
    if share["value"] is None:
        return "–"
    return f"{100 * share['value']:.0f} [{100 * share['low']:.0f}-{100 * share['high']:.0f}]"


def points(difference: Mapping[str, Any]) -> str:
    """Return a difference with its interval, in percentage points: `+42 [+28 to +54]`; a dash for one over no items."""
    if difference["value"] is None:
        return "–"
    return f"{100 * difference['value']:+.0f} [{100 * difference['low']:+.0f} to {100 * difference['high']:+.0f}]"


def comparison_table(
    heading: str,
    scores: Mapping[str, Any],
    differences: Mapping[str, Any],
    first: str,
    second: str,
    how: str = "greedy decoding",
    items: str = HELDOUT,
) -> str:
    """Return a text table: one line per group, the pooled one last. `how`: how the answers were generated, `items`: to what."""
    table = Table(title=f"{_capital(items)}, {how}: percent [95 % interval]; {second} minus {first} in points, paired")
    table.add_column(heading)
    table.add_column(_numbers(scores[first]), justify="right")
    for metric in ("valid", "correct"):
        for column in (first, second, "difference"):
            table.add_column(f"{metric}\n{column}", justify="right")
    for group in scores[first]["by_group"]:
        one, two = scores[first]["by_group"][group], scores[second]["by_group"][group]
        if group == POOLED:
            table.add_section()
        cells = [group, _number(one)]
        for metric in ("valid", "correct"):
            cells += [percent(one[metric]), percent(two[metric]), points(differences[group][metric])]
        table.add_row(*cells)
    return render(table)


def candidates_table(
    heading: str, scores: Mapping[str, Any], how: str, metric: str = "correct", items: str = HELDOUT
) -> str:
    """Return a text table of many candidates: the share of correct (or valid) answers, a line per group, the pooled one last."""
    table = Table(title=f"{_capital(items)}, {how}: percent {metric} [95 % interval]")
    for column in (heading, "n", *scores):
        table.add_column(column, justify="left" if column == heading else "right")
    first = next(iter(scores.values()))["by_group"]
    for group in first:
        if group == POOLED:
            table.add_section()
        shares = [one["by_group"][group][metric] for one in scores.values()]
        table.add_row(group, str(first[group][metric]["n"]), *map(percent, shares))
    return render(table)


def _capital(items: str) -> str:
    return items[0].upper() + items[1:]


def shown_metrics(scores: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the metrics that tables of many candidates show: correct, and valid before it where not every item is compared."""
    return ("correct",) if next(iter(scores.values()))["judged_by"] == "correct" else METRICS


def ranking_table(ranking: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    """Return a text table: the best candidate first, with letters of those that cannot be told apart."""
    pairs = len(ranking["pairs"])
    table = Table(
        title=f"Ranking by {ranking['metric']}: percent [95 % interval]; candidates that share a letter cannot be told apart "
        f"(exact test, Holm's correction for {pairs} pair{'s' * (pairs != 1)})"
    )
    metrics = METRICS if ranking["metric"] in METRICS else (ranking["metric"],)
    for column in ("candidate", "n", *metrics, f"minus {ranking['reference']}, points", "letter"):
        table.add_column(column, justify="left" if column in ("candidate", "letter") else "right")
    for one in ranking["order"]:
        name = one["name"]
        pooled = scores[name]["by_group"][POOLED] | {ranking["metric"]: one}
        cells = [percent(pooled[metric]) for metric in metrics]
        difference = ranking["differences"].get(name)
        told = points(difference) if difference else ""
        table.add_row(name, str(one["n"]), *cells, told, letters(ranking["groups"], name))
    counting = sum(pair["p_holm"] < ranking["level"] for pair in ranking["pairs"])
    return f"{render(table)}\n{counting} of {pairs} differences are more than noise (p below {ranking['level']:g} after the correction)"


def samples_table(scores: Mapping[str, Any]) -> str:
    """Return a text table of what several samples come to together, over all groups: pass@k, and the majority's answers."""
    pooled = {name: one["by_group"][POOLED] for name, one in scores.items()}
    first = next(iter(pooled.values()))
    samples = next(iter(scores.values()))["samples"]
    metric = next(iter(scores.values()))["judged_by"]
    table = Table(title=f"{samples} samples of each of {first[metric]['n']} items: percent {metric} [95 % interval]")
    table.add_column("candidate")
    for column in (*(f"pass@{k}" for k in first["pass_at"]), "majority"):
        table.add_column(column, justify="right")
    for name, one in pooled.items():
        shares = [*one["pass_at"].values(), one["majority"][metric]]
        table.add_row(name, *map(percent, shares))
    return render(table)


def selection_line(selection: Mapping[str, Any]) -> str:
    """Return in one line which candidate was chosen on the selection part, and what it is worth on the rest."""
    chosen, reference = selection["chosen"], selection["reference"]
    on, rest = selection["on_selection"][chosen], selection["on_rest"][chosen]
    line = (
        f"chosen on {on['n']} items (drawn by seed {selection['seed']}): {chosen}, {percent(on)} % {selection['metric']} there; on the other "
        f"{rest['n']} items {percent(rest)} %"
    )
    if chosen == reference:
        return line
    return f"{line}, {points(selection['difference'])} points against {reference}: this is the number to report"


def score_table(heading: str, scores: Mapping[str, Any], candidate: str) -> str:
    """Return a text table of one candidate's scores."""
    table = Table(title=f"{candidate}: percent [95 % interval]")
    for column in (heading, _numbers(scores), "valid", "correct", "verdicts"):
        table.add_column(column, justify="left" if column in (heading, "verdicts") else "right")
    for group, values in scores["by_group"].items():
        if group == POOLED:
            table.add_section()
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in values["verdicts"].items())
        table.add_row(group, _number(values), percent(values["valid"]), percent(values["correct"]), verdicts)
    return render(table)


def _numbers(scores: Mapping[str, Any]) -> str:
    """Return the heading above `_number`."""
    return "n" if scores["judged_by"] == "correct" else "n\n(compared)"


def _number(values: Mapping[str, Any]) -> str:
    """Return how many items a group has, and how many of them are compared with something, where it is not all."""
    n, compared = values["valid"]["n"], values["correct"]["n"]
    return str(n) if n == compared else f"{n} ({compared})"


def render(table: Table) -> str:
    """Render a rich table as plain text."""
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    return text.getvalue().rstrip("\n")


def modes_table(heading: str, modes: Mapping[str, Any], candidate: str) -> str:
    """Return a text table of what a pack's modes count: a line for each group, a column for each mode, with 95 % intervals."""
    table = Table(title=f"{candidate}: percent valid [95 % interval] in {len(modes)} modes")
    for column in (heading, "n", *modes):
        table.add_column(column, justify="left" if column == heading else "right")
    shares = {mode: mode_shares(counts) for mode, counts in modes.items()}
    for group, first in next(iter(shares.values())).items():
        if group == POOLED:
            table.add_section()
        table.add_row(group, str(first["n"]), *(percent(one[group]) for one in shares.values()))
    return render(table)


def candidate_modes_table(modes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a text table of many candidates in a pack's modes, over all groups."""
    pooled = {name: {mode: mode_shares(counts)[POOLED] for mode, counts in own.items()} for name, own in modes.items()}
    first = next(iter(pooled.values()))
    table = Table(title=f"Percent valid [95 % interval] in {len(first)} modes")
    for column in ("candidate", "n", *first):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    for name, shares in pooled.items():
        table.add_row(name, str(next(iter(shares.values()))["n"]), *map(percent, shares.values()))
    return render(table)
