"""The one place that prints: phases, lines, tables and the live bar of a training.

On a terminal a bar is drawn in place; elsewhere (a file, a CI log) the same facts come as plain lines, one per
logging step. Everything goes to standard error, so that `--json` has standard output to itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class EventSink(Protocol):
    """Where phases are recorded besides the console: `metrics.jsonl` of a run."""

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        """Append one event."""


@dataclass
class Console:
    """Prints for people, and hands every finished phase to the sinks."""

    stream: IO[str] = field(default_factory=lambda: sys.stderr)
    started: float = field(default_factory=time.perf_counter)
    sinks: list[EventSink] = field(default_factory=list)
    log: IO[str] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    _pending: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Find out once whether a person watches."""
        self.rich = RichConsole(file=self.stream, highlight=False, soft_wrap=True)
        self.live = self.rich.is_terminal

    def line(self, text: str, *, style: str | None = None) -> None:
        """Print one line, with the seconds since the start before it."""
        stamp = f"[{time.perf_counter() - self.started:6.1f} s] "
        self.rich.print(stamp + text, style=style, markup=False)
        self.stream.flush()
        self._log(stamp + text)

    def text(self, text: str, *, style: str | None = None) -> None:
        """Print a block (a table) as it is."""
        self.rich.print(text, style=style, markup=False)
        self.stream.flush()
        self._log(text)

    def warn(self, text: str) -> None:
        """Print a warning: something the user should know and that does not stop the run."""
        self.line(f"warning: {text}", style="yellow")

    @contextmanager
    def phase(self, name: str, detail: str = "") -> Iterator[None]:
        """Name and time what happens inside; said when it begins, and again with its seconds when it ends."""
        begun = time.perf_counter()
        self.line(f"{name}{': ' if detail else ''}{detail} ...")
        yield
        seconds = time.perf_counter() - begun
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.record("phase", {"name": name, "detail": detail, "seconds": round(seconds, 3)})
        if seconds >= 1:
            self.line(f"{name}: done in {seconds:.1f} s")

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        """Hand an event to the sinks; events before the first sink are kept for it."""
        if not self.sinks:
            self._pending.append((kind, dict(values)))
        for sink in self.sinks:
            sink.record(kind, values)

    def attach(self, sink: EventSink) -> None:
        """Add a sink and give it what happened so far."""
        self.sinks.append(sink)
        for kind, values in self._pending:
            sink.record(kind, values)
        self._pending.clear()

    def _log(self, text: str) -> None:
        if self.log is not None:
            self.log.write(text + "\n")
            self.log.flush()

    @contextmanager
    def bar(self, name: str, total: int, unit: str) -> Iterator[Bar]:
        """Draw a bar of `total` units on a terminal; elsewhere print nothing until `Bar.report` is called."""
        if not self.live:
            yield Bar(self, None, None, total, unit)
            return
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.rich,
        )
        with progress:
            yield Bar(self, progress, progress.add_task(name, total=total, facts=""), total, unit)


@dataclass
class Bar:
    """Progress of one phase."""

    console: Console
    progress: Progress | None
    task: TaskID | None
    total: int
    unit: str

    def advance(self, done: float, facts: str | None = None) -> None:
        """Move the live bar to `done` units and show `facts` beside it (not given: as before); nothing without a terminal."""
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=done)
            if facts is not None:
                self.progress.update(self.task, facts=facts)

    def report(self, done: int, facts: str) -> None:
        """Say how far it is: on the live bar, or as one plain line."""
        self.advance(done, facts)
        text = f"{self.unit} {done}/{self.total}  {facts}"
        if self.progress is None:
            self.console.line(text)
        else:
            self.console._log(text)
