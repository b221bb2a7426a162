"""Ctrl-C and SIGTERM during training: the step is finished, a checkpoint is written, and the command ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from tanren.common.console import Console
from tanren.common.errors import ExitCode


@dataclass
class Interruption:
    """Which signal asked to stop, if any."""

    exit_code: ExitCode | None = None


@contextmanager
def watch_for_interruption(console: Console) -> Iterator[Interruption]:
    """Note the first Ctrl-C or SIGTERM instead of dying in mid-step; a second one ends the command at once."""
    interruption = Interruption()

    def note(signum: int, frame: FrameType | None) -> None:
        handler = previous[signal.Signals(signum)]
        if interruption.exit_code is not None and callable(handler):
            handler(signum, frame)
            return
        interruption.exit_code = ExitCode.INTERRUPTED if signum == signal.SIGINT else ExitCode.PREEMPTED
        console.line(
            f"{signal.Signals(signum).name}: finishing this step, then writing a checkpoint (again: stop at once)"
        )

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
