"""`report.html`: one self-contained page about a run, made from what its directory holds; it fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from tanren.common.run import RunDirectory, read_events, read_steps, read_validations, write_atomically
from tanren.evaluate.control._section import control_section
from tanren.evaluate.evaluated import Evaluated, is_evaluated, read_evaluated
from tanren.evaluate.evaluator import vote_key_of
from tanren.evaluate.items import embedded, failures, page_data
from tanren.evaluate.measures_section import measures_section
from tanren.evaluate.modes import mode_shares, modes_of
from tanren.evaluate.plots import curve, legend, seconds_of_steps, share_plot
from tanren.evaluate.ranking import letters, rank, standings
from tanren.evaluate.scoring import compare, score
from tanren.evaluate.table import HELDOUT, percent, points, selection_line

METRICS = {"correct": "content correct", "valid": "syntactically valid"}
"""What is counted of the answers, and how it is called on the page."""
SHOWN_KINDS = 25
"""Kinds of failure in the table; those that come after are rare."""
_START = 'showItems(JSON.parse(document.getElementById("data").textContent), {});\n'


def write_report(run: RunDirectory) -> Any:
    """Write the report of a run and return its path. Reads summary, metrics, environment, tasks and predictions."""
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    steps = read_steps(run.metrics)
    script = page_file("items.js") + _START
    evaluated = read_evaluated(run) if is_evaluated(run) else None
    page = page_templates().get_template("report.html.j2")
    text = page.render(
        run=run.path.name,
        summary=summary,
        style=page_file("page.css"),
        script=script,
        script_source=script_hash(script),
        curve=curve(steps, read_validations(run.metrics)),
        seconds=seconds_of_steps(steps, summary.get("seconds_of_steps", {})),
        control=control_section(run, summary),
        config=run.config.read_text(encoding="utf-8"),
        environment=json.loads(run.environment.read_text(encoding="utf-8")),
        phases=_phases(read_events(run.metrics)),
        **(_of_items(run.path.name, evaluated) if evaluated is not None else {"scores": {}, "differences": {}}),
    )
    write_atomically(run.report, text)
    return run.report


def page_templates() -> Environment:
    """Return the templates of the pages, with the filters that they use; all that they insert is escaped."""
    folder = files("tanren.evaluate")
    sources = {
        "report.html.j2": folder.joinpath("report.html.j2").read_text(encoding="utf-8"),
        "items.html.j2": page_file("items.html.j2"),
        "measures.html.j2": page_file("measures.html.j2"),
        "view.html.j2": page_file("view.html.j2"),
    }
    templates = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"percent": percent, "points": points, "seconds": _seconds, "trend": _trend}
    templates.globals |= {"letters": letters, "selection_line": selection_line}
    return templates


def page_file(name: str) -> str:
    """Return a file that the pages are made of."""
    return files("tanren.evaluate").joinpath("page", name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """Return the source of a Content-Security-Policy that lets this script run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _of_items(run: str, evaluated: Evaluated) -> dict[str, Any]:
    """Return what the page says of answers: scores, differences from the first candidate, plots, failures, the items."""
    judged = evaluated.candidates
    scores = {name: score(items, vote_key_of(evaluated.pack)) for name, items in judged.items()}
    first, *others = judged
    ranked = len(others) > 1 or (others and evaluated.rank_by is not None)
    return {
        "scores": scores,
        "reference": first,
        "differences": {name: compare(judged[first], judged[name]) for name in others},
        "chosen": evaluated.pair[1],
        "ranking": rank(standings(judged, evaluated.pack, evaluated.rank_by)) if ranked else None,
        "metrics": dict(sorted(METRICS.items(), key=lambda item: item[0] != scores[first]["judged_by"])),
        "plots": {metric: share_plot(title, scores, metric) for metric, title in METRICS.items()},
        "legend": legend(list(scores)),
        "modes": _modes(evaluated),
        "judged_by": scores[first]["judged_by"],
        "items": HELDOUT if evaluated.listed is None else evaluated.listed.items,
        "failures": failures(evaluated),
        "shown_kinds": SHOWN_KINDS,
        "group": evaluated.pack.description.group,
        "heldout": evaluated.pack.description.heldout if evaluated.listed is None else evaluated.listed.told(),
        "data": embedded(page_data(run, evaluated)),
        **measures_section(evaluated),
    }


def _modes(evaluated: Evaluated) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return of each other reading that the pack has, by group, the share of valid answers of every candidate."""
    counts = [modes_of(evaluated.pack, judged) for judged in evaluated.candidates.values()]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for mode in counts[0]:
        shares = [mode_shares(own[mode]) for own in counts]
        found[mode] = {group: [own[group] for own in shares] for group in shares[0]}
    return found


def _phases(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the phases in the order of their first beginning; one that came often (validate) is one, with times and sum."""
    phases: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["kind"] == "phase":
            one = phases.setdefault(event["name"], {"name": event["name"], "times": 0, "seconds": 0.0})
            one["times"] += 1
            one["seconds"] += event["seconds"]
            one["detail"] = event["detail"] if one["times"] == 1 else f"{one['times']} times"
    return list(phases.values())


def _trend(difference: Mapping[str, Any]) -> str:
    """Return whether an interval lies above 0 (gain), below (loss), or holds it ("")."""
    return "gain" if difference["low"] > 0 else "loss" if difference["high"] < 0 else ""


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {value % 60:.0f} s"
