"""Ctrl-C and SIGTERM during training: the step is finished, a checkpoint is written, and the command ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal

from tanren.common.console import Console
from tanren.common.errors import ExitCode
from tanren.common.run import RunDirectory

# Seconds in which a repeated SIGTERM is the same one: a scheduler tells every process of a job, and the one that runs
# the stages of a recipe passes it on.
ONE_REQUEST = 1.0


@dataclass
class Interruption:
    """How the run was asked to stop, if it was: by Ctrl-C (interrupted), or by SIGTERM (preempted)."""

    status: Literal["interrupted", "preempted"] | None = None
    noted_at: float = float("-inf")
    """When the last signal came, in seconds of the monotonic clock."""

    @property
    def exit_code(self) -> ExitCode:
        """0 for a preemption: the checkpoint is written, and to its scheduler the job has done what it was asked."""
        return ExitCode.INTERRUPTED if self.status == "interrupted" else ExitCode.DONE


@contextmanager
def watch_for_interruption(console: Console) -> Iterator[Interruption]:
    """Note the first Ctrl-C or SIGTERM instead of dying in mid-step; a second one ends the command at once."""
    interruption = Interruption()

    def note(signum: int, frame: FrameType | None) -> None:
        handler = previous[signal.Signals(signum)]
        told_again = signum == signal.SIGTERM and time.monotonic() - interruption.noted_at < ONE_REQUEST
        if told_again:
            return
        interruption.noted_at = time.monotonic()
        if interruption.status is not None and callable(handler):
            handler(signum, frame)
            return
        interruption.status = "interrupted" if signum == signal.SIGINT else "preempted"
        console.line(
            f"{signal.Signals(signum).name}: finishing this step, then writing a checkpoint (again: stop at once)"
        )

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def say_stopped(interruption: Interruption, done: int, steps: int, run: RunDirectory, console: Console) -> ExitCode:
    """Say how to go on after a signal that came when `done` of `steps` steps were done; return the exit code."""
    status = interruption.status
    if not run.checkpoint_steps():
        console.line(f"{status} before step 1: there is no checkpoint, start again")
        return ExitCode.PREEMPTED if status == "preempted" else ExitCode.INTERRUPTED
    console.line(f"{status} after step {done} of {steps}; to continue: the same command with --resume {run.path}")
    return interruption.exit_code
