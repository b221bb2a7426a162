"""The comparison as a table for the terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tanren.evaluate.scoring import POOLED, share_values


def percent(share: Mapping[str, Any]) -> str:
    """Return a share with its interval, in percent: `35 [23-49]`."""
    return f"{100 * share['value']:.0f} [{100 * share['low']:.0f}-{100 * share['high']:.0f}]"


def points(difference: Mapping[str, Any]) -> str:
    """Return a difference with its interval, in percentage points: `+42 [+28 to +54]`."""
    return f"{100 * difference['value']:+.0f} [{100 * difference['low']:+.0f} to {100 * difference['high']:+.0f}]"


def comparison_table(
    heading: str, scores: Mapping[str, Any], differences: Mapping[str, Any], first: str, second: str
) -> str:
    """Return a text table: one line per group, the pooled one last."""
    table = Table(
        title=f"Held-out items, greedy decoding: percent [95 % interval]; {second} minus {first} in points, paired"
    )
    table.add_column(heading)
    table.add_column("n", justify="right")
    for metric in ("valid", "correct"):
        for column in (first, second, "difference"):
            table.add_column(f"{metric}\n{column}", justify="right")
    for group in scores[first]["by_group"]:
        one, two = scores[first]["by_group"][group], scores[second]["by_group"][group]
        if group == POOLED:
            table.add_section()
        cells = [group, str(one["valid"]["n"])]
        for metric in ("valid", "correct"):
            cells += [percent(one[metric]), percent(two[metric]), points(differences[group][metric])]
        table.add_row(*cells)
    return render(table)


def score_table(heading: str, scores: Mapping[str, Any], candidate: str) -> str:
    """Return a text table of one candidate's scores."""
    table = Table(title=f"{candidate}: percent [95 % interval]")
    for column in (heading, "n", "valid", "correct", "verdicts"):
        table.add_column(column, justify="left" if column in (heading, "verdicts") else "right")
    for group, values in scores["by_group"].items():
        if group == POOLED:
            table.add_section()
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in values["verdicts"].items())
        table.add_row(group, str(values["valid"]["n"]), percent(values["valid"]), percent(values["correct"]), verdicts)
    return render(table)


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
    counts = {mode: {**values["by_format"], POOLED: values} for mode, values in modes.items()}
    first = next(iter(counts.values()))
    for group in first:
        if group == POOLED:
            table.add_section()
        shares = [share_values(values[group]["valid"], values[group]["total"]) for values in counts.values()]
        table.add_row(group, str(first[group]["total"]), *map(percent, shares))
    return render(table)
