"""The section of the report about a controlled run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from tanren.common.run import RunDirectory

from ._log import FOLDER, LOG, read_log
from ._table import cells, number, ranking

_SHOWN = 60
"""Characters of an answer in the table of decisions: it ends with the action."""


def control_section(run: RunDirectory, summary: Mapping[str, Any]) -> str:
    """Return the section as HTML, without scripts or network; "" for a run that controlled nothing."""
    result = summary.get("control")
    if result is None:
        return ""
    template = files("tanren.evaluate.control").joinpath("section.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cells": cells, "ending": _ending, "number": number, "ranking": ranking}
    log = _log(run)
    weeks = [
        {"values": week, "plot": _plot(run, week["week"], index), "log": log.get(week["week"], [])}
        for index, week in enumerate(result["weeks"])
    ]
    return environment.from_string(template).render(
        weeks=weeks,
        result=result["summary"] or result["weeks"][0],
        summary=result["summary"],
        failures=result["failures"],
        asked=max((len(entry.get("samples", ())) for entries in log.values() for entry in entries), default=0),
    )


def _ending(entry: Mapping[str, Any]) -> str:
    """Return what the first answer ends with, and what all of them voted for; the whole texts are in the log."""
    if not entry.get("samples"):
        return ""
    first, *others = entry["samples"]
    text = " ".join(first["completion"].split())
    shown = text if len(text) <= _SHOWN else f"…{text[1 - _SHOWN :]}"
    votes = ", ".join(f"{count} for {action}" for action, count in entry["votes"].items())
    said = f" · {votes or 'no vote'}" if others else ""
    return (shown or "nothing was written") + said


def _plot(run: RunDirectory, week: str, number_of: int) -> str:
    """Return a plot to stand in the page: its ids get a prefix, as those of another plot are the same."""
    svg = (run.path / FOLDER / f"{week}.svg").read_text(encoding="utf-8")
    own = f"w{number_of}-"
    for before in ('id="', 'xlink:href="#', "url(#"):
        svg = svg.replace(before, before + own)
    return svg[svg.index("<svg") :]


def _log(run: RunDirectory) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in read_log(run.path / FOLDER / LOG):
        found.setdefault(entry["week"], []).append(entry)
    return found
