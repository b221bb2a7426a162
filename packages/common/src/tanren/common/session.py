"""What surrounds the work of a training command in its run directory: the lock, the logs, and the last word if it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tanren.common.console import Console
from tanren.common.run import MetricsWriter, RunDirectory, held
from tanren.common.tracking import Tracker


@contextmanager
def recorded(run: RunDirectory, console: Console) -> Iterator[None]:
    """Hold a run directory against other processes; what the console says goes to its log and metrics."""
    with held(run), run.log.open("a", encoding="utf-8") as console.log:
        metrics = MetricsWriter(run.metrics)
        console.attach(metrics)
        console.line(f"run directory: {run.path}")
        yield
        metrics.close()


@contextmanager
def failure_recorded(run: RunDirectory, tracker: Tracker, summary: Callable[[str], dict[str, Any]]) -> Iterator[None]:
    """Where what is inside fails, write how into `summary.json`, made by `summary` from the status, and raise it on."""
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # the error itself is what the user must hear
            status = "failed" if isinstance(error, Exception) else "interrupted"
            run.write_json(run.summary, summary(status) | {"error": f"{type(error).__name__}: {error}"})
            tracker.finish({}, "FAILED")
        raise
