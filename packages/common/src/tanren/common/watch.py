"""`tanren watch RUN`: the curves of a run as SVG, drawn anew whenever a step is done."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.run import RunDirectory, read_steps, write_atomically

FILE = "watch.svg"
SHARES = ("parse_rate", "accuracy")
"""Between 0 and 1: their axes stand still, so that a curve is read at a glance."""
PANELS = (
    ("parse_rate", "parse rate"),
    ("accuracy", "accuracy"),
    ("regret", "mean regret"),
    ("reward", "mean reward"),
    ("loss", "loss"),
    ("grad_norm", "gradient norm"),
    ("lr", "learning rate"),
    ("tokens_per_second", "tokens/s"),
)
"""What is shown: the first four that the run has numbers of."""
SHOWN = 4
WEIGHT = 0.1
"""Of the newest step in the running mean that is drawn over the single steps."""


def run_watch(folder: Path, out: Path | None, every: float, *, once: bool) -> int:
    """Draw a run's curves until it ends, every `every` seconds if there is something new; `once`: now, and that is all.

    Waits for the first step. Raises UserError where there is no run.
    """
    run = RunDirectory(folder.expanduser())
    if not run.path.is_dir():
        raise UserError(f"{folder}: no run there; name a run directory")
    console, target = Console(), out or run.path / FILE
    seen = 0
    while True:
        ended = _ended(run)
        steps = read_steps(run.metrics)
        if len(steps) != seen and steps:
            seen = len(steps)
            _draw(steps, target, run.label)
            last = "  ".join(
                f"{name} {steps[-1][key]:.4g}" for key, name in _panels(steps) if steps[-1][key] is not None
            )
            console.line(f"step {steps[-1]['step']}: {last}  ({target})")
        if once or ended:
            if not steps:
                raise UserError(f"{run.path} has no step yet; without --once the first one is waited for")
            return 0
        time.sleep(every)


def _ended(run: RunDirectory) -> bool:
    """Whether the run has said how it ended, and has not been resumed since."""
    if not run.summary.is_file():
        return False
    return not run.metrics.is_file() or run.summary.stat().st_mtime >= run.metrics.stat().st_mtime


def _panels(steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(key, name) for key, name in PANELS if any(step.get(key) is not None for step in steps)][:SHOWN]


def _draw(steps: Sequence[Mapping[str, Any]], target: Path, title: str) -> None:
    """Write the figure whole or not at all: a viewer may read it at any time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    for number, (key, name) in enumerate(_panels(steps), start=1):
        axes = figure.add_subplot(2, 2, number)
        points = [(step["step"], step[key]) for step in steps if step.get(key) is not None]
        x, values = zip(*points, strict=True)
        axes.plot(x, values, color="#b8c4d6", linewidth=1, marker="." if len(x) < 3 else None)
        axes.plot(x, _running_mean(values), color="#1f4e8c", linewidth=1.8)
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        if key in SHARES:
            axes.set_ylim(0, 1.05)
    figure.suptitle(title)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    write_atomically(target, text.getvalue())


def _running_mean(values: Sequence[float]) -> list[float]:
    means = [values[0]]
    for value in values[1:]:
        means.append((1 - WEIGHT) * means[-1] + WEIGHT * value)
    return means
