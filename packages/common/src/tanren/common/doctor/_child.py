"""Child processes with a time limit: what might hang, print or crash does so outside the doctor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

POLL = 0.02  # s between looks at the children: far below what any of them takes


@dataclass(frozen=True)
class Answer:
    """How a child ended."""

    code: int | None
    """Exit code; negative: minus the signal; None: the time limit ended it."""
    text: str
    """Standard output and standard error, as they came."""
    seconds: float

    @property
    def last_line(self) -> str:
        """The last line that is not empty: of a Python traceback, the error itself."""
        return next((line.strip() for line in reversed(self.text.splitlines()) if line.strip()), "")


@dataclass(frozen=True)
class Child:
    """A process that runs, in a session of its own."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    """Standard output and standard error, as they came so far."""
    begun: float

    def answer(self, limit: float) -> Answer | None:
        """Return how it ended, None while it runs within the limit."""
        seconds = time.monotonic() - self.begun
        code = self.process.poll()
        if code is None:
            if seconds < limit:
                return None
            self.end()
        self.output.seek(0)
        return Answer(code, self.output.read().decode("utf-8", errors="replace"), seconds)

    def end(self) -> None:
        """End it with all that it started."""
        with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run(
    command: Sequence[str | Path],
    *,
    limit: float = 60,  # s; a compiler takes 0.3 s, a loaded machine or a cold network disk much longer
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Answer:
    """Run one command. One that cannot be started at all answers with code 126 and the reason."""
    [(_, answer)] = run_all({"": command}, limit=limit, variables=variables, folder=folder)
    return answer


def run_all(
    commands: Mapping[str, Sequence[str | Path]],
    *,
    limit: float,
    at_once: int = 1,
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Generator[tuple[str, Answer], None, None]:
    """Run commands, `at_once` at a time, each within `limit` seconds; yield each name with its answer as they end.

    None outlives the generator: Ctrl-C and SIGTERM end them too.
    """
    waiting, running = list(commands.items()), dict[str, Child]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name, command = waiting.pop(0)
                try:
                    running[name] = start(command, variables, folder)
                except OSError as fault:
                    yield name, Answer(126, f"{command[0]}: {fault.strerror}", 0.0)
            for name, child in list(running.items()):
                if (answer := child.answer(limit)) is not None:
                    running.pop(name).output.close()
                    yield name, answer
            if running:
                time.sleep(POLL)
    finally:
        for child in running.values():
            child.end()
            child.output.close()


def start(
    command: Sequence[str | Path],
    variables: Mapping[str, str] | None,
    folder: Path | None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start one command, with the open files `pass_fds`. Raises OSError where it cannot be started."""
    # A file, not a pipe: a grandchild that lives on would keep a pipe open and its reader waiting.
    output = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the child has answered)
    try:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if variables is None else dict(variables),
            cwd=folder,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except OSError:
        output.close()
        raise
    return Child(process, output, time.monotonic())
