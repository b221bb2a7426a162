"""`metrics.jsonl`, the truth about a run; everything else (CSV, MLflow, plots) is a view of it.

Each line is an event: {"kind": "step" | "phase" | "resume" | ..., "time": seconds since the epoch, ...}.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ._files import append_line, mend_last_line, write_atomically


class MetricsWriter:
    """Appends events to `metrics.jsonl`; a last line torn by a kill is cut off first."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending."""
        mend_last_line(path)
        self._file: IO[bytes] = path.open("ab")

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        """Append one event."""
        append_line(self._file, {"kind": kind, "time": round(time.time(), 3), **values})

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a metrics file; a torn last line is left out."""
    if not path.is_file():
        return
    with path.open("rb") as file:  # bytes: a torn line may end inside a character
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Return one event per optimizer step, in order.

    Steps behind a checkpoint from which the run was resumed were done twice: the last one counts.
    """
    steps: dict[int, dict[str, Any]] = {}
    for event in read_events(path):
        if event["kind"] == "resume":
            steps = {step: values for step, values in steps.items() if step <= event["step"]}
        elif event["kind"] == "step":
            steps[event["step"]] = event
    return [steps[step] for step in sorted(steps)]


def write_steps_csv(metrics: Path, target: Path) -> None:
    """Write the steps of a metrics file as CSV (a view: made anew each time)."""
    steps = read_steps(metrics)
    columns = [key for key in (steps[0] if steps else {}) if key not in ("kind", "time")]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(steps)
    write_atomically(target, text.getvalue())
