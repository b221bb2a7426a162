"""`evaluate compare` of controlled runs: the same weeks under several policies and models, paired by week."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from tanren.common.errors import UserError
from tanren.common.run import RunDirectory
from tanren.evaluate.table import render

from ._bootstrap import interval_of_mean
from ._log import FOLDER
from ._result import summary_values
from ._table import HEADINGS, cells, number

_LISTED, _NO_CHOICE = 3, 2
Weeks = Sequence[Mapping[str, Any]]


def is_controlled(folder: Path) -> bool:
    """Whether a run is one of `evaluate control`."""
    return (folder.expanduser() / FOLDER).is_dir()


def compare_controlled(folders: Sequence[Path], *, as_json: bool) -> int:
    """Print what several controlled runs came to on the same weeks, the least penalised cost first; return the exit code.

    Raises UserError for a run that is not finished, and for other weeks.
    """
    weeks = _read(folders)
    if len(weeks) < 2:
        raise UserError(f"{len(weeks)} run to compare; name at least two")
    reference, *others = weeks
    for name in others:
        weeks[name] = _same_weeks(reference, weeks[reference], name, weeks[name])
    result = _result(weeks)
    if len(weeks) > _NO_CHOICE:
        sys.stderr.write(
            f"warning: whoever takes the best of these {len(weeks)} has chosen it on the weeks that it is reported on, and reports too "
            "much: judge the chosen one on other weeks\n"
        )
    if as_json:
        json.dump(result, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(f"{_table(result)}\n")
    return 0


def _read(folders: Sequence[Path]) -> dict[str, Weeks]:
    found: dict[str, Weeks] = {}
    for folder in folders:
        run = RunDirectory(folder.expanduser())
        name = run.path.resolve().name
        if not run.finished:
            raise UserError(f"{folder}: this run is not finished; go on with it: tanren resume {folder}")
        if name in found:
            raise UserError(f"two runs are named {name}; rename one of their folders")
        found[name] = json.loads(run.summary.read_text(encoding="utf-8"))["control"]["weeks"]
    return found


def _same_weeks(first: str, ours: Weeks, other: str, theirs: Weeks) -> Weeks:
    """Return the other run's weeks in our order. Raises UserError where they are not the same, down to what baselines come to."""
    by_name = {week["week"]: week for week in theirs}
    for names, where in (
        ([week["week"] for week in ours if week["week"] not in by_name], first),
        ([name for name in by_name if name not in {week["week"] for week in ours}], other),
    ):
        if names:
            more = ", ..." if len(names) > _LISTED else ""
            raise UserError(
                f"{first} and {other} have not controlled the same weeks: only {where} has {', '.join(names[:_LISTED])}{more}"
            )
    for week in ours:
        if week["baselines"] != by_name[week["week"]]["baselines"]:
            raise UserError(
                f"{first} and {other}: {week['week']} is not the same in both (the baselines come to something else): another file of "
                "that name, or another --initial-kwh"
            )
    return [by_name[week["week"]] for week in ours]


def _result(weeks: Mapping[str, Weeks]) -> dict[str, Any]:
    reference = next(iter(weeks))
    runs = {name: summary_values(own) for name, own in weeks.items()}
    costs = {name: [week["penalised_kg_co2"] for week in own] for name, own in weeks.items()}
    first = runs[reference]
    return {
        "weeks": [week["week"] for week in weeks[reference]],
        "order": sorted(runs, key=lambda name: runs[name]["penalised_kg_co2"]["value"]),
        "runs": {
            name: {key: value for key, value in one.items() if key not in ("weeks", "baselines", "note")}
            for name, one in runs.items()
        },
        "baselines": first["baselines"],
        "reference": reference,
        "differences": {
            name: asdict(interval_of_mean([two - one for one, two in zip(costs[reference], own, strict=True)]))
            for name, own in costs.items()
            if name != reference
        },
        "note": first["note"],
    }


def _table(result: Mapping[str, Any]) -> str:
    """Return a text table: runs and baselines by their penalised cost."""
    reference, count = result["reference"], len(result["weeks"])
    table = Table(
        title=f"Mean of {count} week{'s' * (count != 1)} [95 % interval], least penalised cost first; difference: penalised, less that of "
        f"{reference}, paired by week"
    )
    table.add_column("run")
    for heading in (*HEADINGS, "difference\nkg CO2"):
        table.add_column(heading, justify="right")
    lines = [(f"> {name}\n  {one['policy']}", name, one) for name, one in result["runs"].items()]
    own = {one["policy"] for one in result["runs"].values()}
    lines += [(f"  {name}", name, one) for name, one in result["baselines"].items() if name not in own]
    for title, name, one in sorted(lines, key=lambda line: float(line[2]["penalised_kg_co2"]["value"])):
        difference = result["differences"].get(name) if title.startswith(">") else None
        shown = [*cells(one), "" if difference is None else number(difference, 1)]
        table.add_row(title, *(cell.replace(" [", "\n[") for cell in shown))
    return render(table) + (f"\nnote: {result['note']}" if result["note"] else "")
