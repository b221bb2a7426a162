"""`report.html`: one self-contained page about a run, made from what its directory holds; no network, no scripts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from tanren.common.run import RunDirectory, read_events, read_steps, read_validations, write_atomically
from tanren.common.task_packs import load_pack
from tanren.evaluate.control._section import control_section
from tanren.evaluate.evaluator import PREDICTIONS, TASKS
from tanren.evaluate.predictions import read_predictions, read_tasks
from tanren.evaluate.scoring import Judged, judge
from tanren.evaluate.table import percent, points

# Items shown per group: enough to see what changed, few enough to read.
SHOWN_PER_GROUP = 2
COLOURS = ("#1f4e8c", "#7f9cc4", "#b8c4d6", "#d9a441", "#b5482f", "#dde3ec")


def write_report(run: RunDirectory) -> Any:
    """Write the report of a run and return its path. Reads summary, metrics, environment, tasks and predictions."""
    summary = json.loads(run.summary.read_text(encoding="utf-8"))
    comparison = summary["evaluation"]
    template = files("tanren.evaluate").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "points": points, "seconds": _seconds}
    steps = read_steps(run.metrics)
    page = environment.from_string(template).render(
        run=run.path.name,
        summary=summary,
        comparison=comparison,
        curve=_curve(steps, read_validations(run.metrics)),
        seconds=_seconds_of_steps(steps, summary.get("seconds_of_steps", {})),
        bars=_bars(comparison),
        examples=_examples(run, comparison),
        control=control_section(run, summary),
        config=run.config.read_text(encoding="utf-8"),
        environment=json.loads(run.environment.read_text(encoding="utf-8")),
        phases=_phases(read_events(run.metrics)),
    )
    write_atomically(run.report, page)
    return run.report


def _curve(steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]) -> str:
    """Return what a run is judged by over its steps, with its running mean, as SVG: its mean reward, or its loss."""
    key, label = (
        ("reward", "mean reward") if any("reward" in step for step in steps) else ("loss", "loss (nats per token)")
    )
    steps = [step for step in steps if step[key] is not None]
    if not steps:
        return ""
    figure, axes = _figure(7.2, 2.6)
    x, values = [step["step"] for step in steps], [step[key] for step in steps]
    window = max(1, len(values) // 10)
    mean = [
        sum(values[max(0, i + 1 - window) : i + 1]) / len(values[max(0, i + 1 - window) : i + 1])
        for i in range(len(values))
    ]
    alone = window == 1
    colour, marker = "#1f4e8c" if alone else "#b8c4d6", "." if len(x) < 3 else None
    axes.plot(x, values, color=colour, linewidth=1.8 if alone else 1, marker=marker, label="each step")
    if window > 1:
        axes.plot(x, mean, color="#1f4e8c", linewidth=1.8, label=f"mean of {window} steps")
    shown = list(values)
    if validations:
        x, values = [event["step"] for event in validations], [event["loss"] for event in validations]
        axes.plot(x, values, color="#b5482f", linewidth=1.4, marker="o", markersize=3, label="validation")
        shown += values
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    if 2 * min(shown) < max(shown):  # a curve that hardly falls would be a line at the top
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    return _svg(figure)


def _seconds_of_steps(steps: Sequence[dict[str, Any]], spent: dict[str, float]) -> str:
    """Return what the seconds of each step went to, one on the other, as SVG; nothing where a run does not say it."""
    names = [name for name, seconds in spent.items() if seconds]
    if not steps or not names:
        return ""
    figure, axes = _figure(7.2, 2.2)
    x = [step["step"] for step in steps]
    columns = [[step[f"seconds_{name}"] for step in steps] for name in names]
    axes.stackplot(x, columns, labels=names, colors=COLOURS[: len(names)])
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("seconds")
    axes.set_xlim(min(x), max(*x, min(x) + 1))
    axes.set_ylim(0, 1.25 * max(map(sum, zip(*columns, strict=True))))  # room for the legend
    axes.legend(frameon=False, ncols=len(names), loc="upper right")
    return _svg(figure)


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


def _bars(comparison: dict[str, Any]) -> str:
    """Return content correct by group, before and after, with intervals, as SVG."""
    if not comparison:
        return ""
    figure, axes = _figure(7.2, 2.6)
    names = [comparison["first"], comparison["second"]]
    groups = list(comparison["candidates"][names[0]]["by_group"])
    for offset, name, colour in zip((-0.19, 0.19), names, ("#b8c4d6", "#1f4e8c"), strict=True):
        shares = [comparison["candidates"][name]["by_group"][group]["correct"] for group in groups]
        values = [100 * share["value"] for share in shares]
        errors = [
            [100 * (s["value"] - s["low"]) for s in shares],
            [100 * (s["high"] - s["value"]) for s in shares],
        ]
        x = [index + offset for index in range(len(groups))]
        axes.bar(x, values, width=0.36, color=colour, label=name, yerr=errors, ecolor="#555", capsize=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("content correct (%)")
    axes.set_ylim(0, 125)  # room for the legend above full bars
    axes.set_yticks(range(0, 101, 20))
    axes.legend(frameon=False, ncols=2, loc="upper left")
    return _svg(figure)


def _figure(width: float, height: float) -> Any:
    """Return a figure of `width` x `height` inches and its axes; no display is needed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _examples(run: RunDirectory, comparison: dict[str, Any]) -> list[tuple[Judged, Judged]]:
    """Return items with both candidates' answers: of each group, first what training mended, then what it did not."""
    if not comparison:
        return []
    task = run.read_config()["task"]
    pack = load_pack(task["name"], task.get("options"))
    rows = read_tasks(run.evaluation / TASKS)
    first, second = (
        judge(rows, read_predictions(run.evaluation / name / PREDICTIONS), pack.parse, name)
        for name in (comparison["first"], comparison["second"])
    )
    shown: list[tuple[Judged, Judged]] = []
    for group in dict.fromkeys(row.group for row in rows):
        pairs = [pair for pair in zip(first, second, strict=True) if pair[0].row.group == group]
        mended = [pair for pair in pairs if pair[1].parsed.correct and not pair[0].parsed.correct]
        failed = [pair for pair in pairs if not pair[1].parsed.correct]
        chosen = [*mended[:1], *failed[:1]]
        chosen += [pair for pair in pairs if pair not in chosen]
        shown += chosen[:SHOWN_PER_GROUP]
    return shown


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {value % 60:.0f} s"
