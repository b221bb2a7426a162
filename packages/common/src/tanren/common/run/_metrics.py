"""`metrics.jsonl`, the truth about a run; everything else (CSV, MLflow, plots) is a view of it.

Each line is an event: {"kind": "step" | "phase" | "resume" | ..., "time": seconds since the epoch, ...}.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
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
    return _newest(path, "step")


def read_validations(path: Path) -> list[dict[str, Any]]:
    """Return one event per validation, in order; of those done twice, the last one."""
    return _newest(path, "validation")


def _newest(path: Path, kind: str) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for event in read_events(path):
        if event["kind"] == "resume":
            found = {step: values for step, values in found.items() if step <= event["step"]}
        elif event["kind"] == kind:
            found[event["step"]] = event
    return [found[step] for step in sorted(found)]


def write_csv(steps: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Write events of a metrics file as CSV (a view: made anew each time)."""
    columns = [key for key in (steps[0] if steps else {}) if key not in ("kind", "time")]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(steps)
    write_atomically(target, text.getvalue())
