"""The result as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from tanren.evaluate.table import render

HEADINGS = ("net\nkg CO2", "unserved\nkWh", "penalised\nkg CO2", "share of\nthe optimum", "failed\ndecisions")


def ranking(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return policy and baselines of a week (or of the summary), the least penalised cost first; the policy is first of equals."""
    others = [(name, values) for name, values in result["baselines"].items() if name != result["policy"]]
    return sorted([(result["policy"], result), *others], key=lambda entry: _plain(entry[1]["penalised_kg_co2"]))


def cells(values: Mapping[str, Any]) -> list[str]:
    """Return a line's numbers as text: a number, or one with its interval where there is one."""
    numbers = [number(values[key], 1) for key in ("net_kg_co2", "unserved_kwh", "penalised_kg_co2")]
    failed = f"{values['failed_decisions']} of {values['decisions']}" if "failed_decisions" in values else ""
    return [*numbers, number(values["share_of_optimum"], 3), failed]


def number(value: Any, digits: int) -> str:
    """Return `15.8`, or `15.8 [12.1 to 19.9]` of a number over weeks, or a dash where there is none."""
    plain = value["value"] if isinstance(value, Mapping) else value
    if plain is None:
        return "–"
    text = f"{plain:.{digits}f}"
    if not isinstance(value, Mapping) or value["low"] is None:
        return text
    return f"{text} [{value['low']:.{digits}f} to {value['high']:.{digits}f}]"


def control_table(weeks: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None) -> str:
    """Return a text table: policy and baselines by their penalised cost, of the one week or the mean over weeks; then each week."""
    result = weeks[0] if summary is None else summary
    where = weeks[0]["week"] if summary is None else f"mean of {len(weeks)} weeks [95 % interval]"
    table = Table(title=f"{where}: least penalised cost first")
    table.add_column("policy")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for name, values in ranking(result):
        table.add_row(
            f"> {name}" if name == result["policy"] else f"  {name}",
            *(cell.replace(" [", "\n[") for cell in cells(values)),
        )
    text = render(table)
    if summary is None:
        return text
    by_week = Table(title=f"{summary['policy']}, week by week")
    by_week.add_column("week")
    for heading in (*HEADINGS, "optimum\nkg CO2"):
        by_week.add_column(heading, justify="right")
    for week in weeks:
        by_week.add_row(week["week"], *cells(week), f"{week['optimal_penalised_kg_co2']:.1f}")
    note = f"\nnote: {summary['note']}" if summary["note"] else ""
    return f"{text}\n{render(by_week)}{note}"


def _plain(value: Any) -> float:
    found: float = value["value"] if isinstance(value, Mapping) else value
    return found
