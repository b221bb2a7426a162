"""The plots of the report, as SVG that stands in the page: they take the colours of the page, light or dark."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tanren.evaluate.scoring import POOLED

INK = "#010203"
"""Drawn in this colour is what shall have the colour of the page's text."""
COLOURS = {
    "#1f4e8c": "--s1",
    "#7f9cc4": "--s3",
    "#b8c4d6": "--s0",
    "#d9a441": "--s5",
    "#b5482f": "--s2",
    "#dde3ec": "--s4",
}
"""What is drawn in one of these has the colour of that name in the page, which knows light and dark."""
_ROW, _GAP, _TOP = 18, 12, 30
"""Heights in pixels: of a candidate's line, between groups, above all."""
_LEFT, _RIGHT, _WIDTH = 150, 130, 720
"""Widths in pixels: of the names, of the numbers, of all."""


def share_plot(title: str, scores: Mapping[str, Any], metric: str) -> str:
    """Return the shares of `metric`, called `title`, by group, a line for each candidate with its 95 % interval, as SVG."""
    names = list(scores)
    groups = list(scores[names[0]]["by_group"])
    span = _WIDTH - _LEFT - _RIGHT
    height = _TOP + len(groups) * (len(names) * _ROW + _GAP)
    said = f"{title}, percent with 95 % interval, by group, for {', '.join(names)}"
    parts = [f'<svg class="shares" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(said)}">']
    for percent in range(0, 101, 20):
        x = _LEFT + span * percent / 100
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 8}" y2="{height}"/>'
            f'<text class="tick" x="{x:.1f}" y="{_TOP - 14}" text-anchor="middle">{percent} %</text>'
        )
    y = _TOP
    for group in groups:
        weight = ' font-weight="600"' if group == POOLED else ""
        parts.append(f'<text x="0" y="{y + 13}"{weight}>{escape(_short(group, 20))}</text>')
        for index, name in enumerate(names):
            parts.append(_share(scores[name]["by_group"][group][metric], name, index, y, span))
            y += _ROW
        y += _GAP
    return "".join(parts) + "</svg>"


def legend(names: Sequence[str]) -> str:
    """Return which candidate has which mark, as HTML."""
    marks = (
        f'<span><svg width="14" height="14" viewBox="-7 -7 14 14" aria-hidden="true">{_mark(0, 0, index)}</svg> {escape(name)}</span>'
        for index, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(marks)}</p>'


def curve(steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]) -> str:
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
    axes.set_xlabel("optimizer step", color=INK)
    axes.set_ylabel(label, color=INK)
    if 2 * min(shown) < max(shown):  # a curve that hardly falls would be a line at the top
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, labelcolor=INK, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    return _svg(figure, f"{label} over optimizer steps")


def seconds_of_steps(steps: Sequence[dict[str, Any]], spent: dict[str, float]) -> str:
    """Return what the seconds of each step went to, one on the other, as SVG; nothing where a run does not say it."""
    names = [name for name, seconds in spent.items() if seconds]
    if not steps or not names:
        return ""
    figure, axes = _figure(7.2, 2.2)
    x = [step["step"] for step in steps]
    columns = [[step[f"seconds_{name}"] for step in steps] for name in names]
    axes.stackplot(x, columns, labels=names, colors=list(COLOURS)[: len(names)])
    axes.set_xlabel("optimizer step", color=INK)
    axes.set_ylabel("seconds", color=INK)
    axes.set_xlim(min(x), max(*x, min(x) + 1))
    axes.set_ylim(0, 1.25 * max(map(sum, zip(*columns, strict=True))))  # room for the legend
    axes.legend(frameon=False, labelcolor=INK, ncols=len(names), loc="upper right")
    return _svg(figure, f"seconds of each step: {', '.join(names)}")


def _share(share: Mapping[str, Any], name: str, index: int, top: int, span: int) -> str:
    y = top + _ROW / 2
    if share["value"] is None:
        return f'<text class="tick" x="{_WIDTH - _RIGHT + 12}" y="{y + 4}">no item is compared</text>'
    low, value, high = (_LEFT + span * share[key] for key in ("low", "value", "high"))
    told = f"{100 * share['value']:.0f} [{100 * share['low']:.0f}-{100 * share['high']:.0f}]  n={share['n']}"
    return (
        f'<g class="s{index % 6}"><title>{escape(name)}: {told}</title>'
        f'<line class="interval" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>{_mark(value, y, index)}'
        f'<text class="tick" x="{_WIDTH - _RIGHT + 12}" y="{y + 4}">{told}</text></g>'
    )


def _mark(x: float, y: float, index: int) -> str:
    """Return a candidate's mark: its shape differs as well as its colour."""
    shape = (
        f'<circle cx="{x:.1f}" cy="{y}" r="5"/>',
        f'<rect x="{x - 4.5:.1f}" y="{y - 4.5}" width="9" height="9"/>',
        f'<path d="M{x:.1f} {y - 6} l6 10.5 h-12 z"/>',
        f'<path d="M{x:.1f} {y - 6.5} l6.5 6.5 l-6.5 6.5 l-6.5 -6.5 z"/>',
    )[index % 4]
    return f'<g class="mark s{index % 6}">{shape}</g>'


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _figure(width: float, height: float) -> Any:
    """Return a figure of `width` x `height` inches and its axes; no display is needed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)
    return figure, axes


def _svg(figure: Any, said: str) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    for drawn, named in COLOURS.items():
        svg = svg.replace(drawn, f"var({named})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(said)}"', 1)
