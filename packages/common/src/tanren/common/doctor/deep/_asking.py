"""The doctor's side of the child: asks one proof after another, and says how one ended that has no answer."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tanren.common.doctor._child import POLL, start
from tanren.common.doctor.deep._probe import Probe, ProbeResult

WORKER = "tanren.common.doctor.deep._worker"
GRACE = 10.0  # s for a child without more to do, to end by itself: engines remove shared memory as they go
BLOCK = 1 << 16


@dataclass(frozen=True)
class Reply:
    """What became of a proof."""

    result: ProbeResult | None
    fault: str
    """Where there is no result: why, in one line."""
    text: str
    """What the child printed meanwhile, with the traceback of its fault."""
    seconds: float
    """From the question to the answer, with all that was imported for it."""


class Worker:
    """One child process. After a reply without a result it must be ended."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        """Start it in the current folder: PYTHONPATH may hold paths that begin there."""
        self._channel, theirs = socket.socketpair()
        with theirs:
            # -P: a file of the current folder is not taken for a package
            command = [sys.executable, "-P", "-m", WORKER, str(theirs.fileno())]
            self._child = start(command, variables, None, pass_fds=(theirs.fileno(),))
        self._read = 0  # bytes of its output that were looked at

    def ask(self, probe: Probe) -> Reply:
        """Have a proof run, and wait for its end, at most for its time limit."""
        begun = time.monotonic()
        request = {"function": probe.function, "arguments": dict(probe.arguments)}
        try:
            self._channel.sendall(json.dumps(request).encode() + b"\n")
            line = self._line(probe.limit)
        except (BrokenPipeError, ConnectionResetError):  # it died before it had read all that was asked
            line = b""
        seconds = time.monotonic() - begun
        if line is not None and line.endswith(b"\n"):
            answer = json.loads(line)
            if "fault" in answer:
                return Reply(None, answer["fault"], self._text(), seconds)
            return Reply(ProbeResult.from_json(answer), "", self._text(), seconds)
        ending = self._ending() if line is not None else f"not done after {probe.limit:.0f} s"
        self._child.end()
        text = self._text()
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
        return Reply(None, f"{ending}; its last line: {last}" if last else ending, text, seconds)

    def end(self, grace: float = 0.0) -> None:
        """End it, with all that it started; with grace it may end by itself before."""
        self._channel.close()
        try:
            self._child.process.wait(grace)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._child.end()
            self._child.output.close()

    def _line(self, limit: float) -> bytes | None:
        """Return the next line, less than a line where the child is dead, None where the time is over."""
        line, until = b"", time.monotonic() + limit
        while not line.endswith(b"\n"):
            alive = self._child.process.poll() is None
            if select.select([self._channel], [], [], POLL if alive else 0)[0]:
                piece = self._channel.recv(BLOCK)
                line += piece
                if not piece:
                    return line
            elif not alive:
                return line
            elif time.monotonic() > until:
                return None
        return line

    def _ending(self) -> str:
        try:
            code = self._child.process.wait(GRACE)
        except subprocess.TimeoutExpired:  # it closed its socket and lives
            return "it closed the way of its answers"
        if code < 0:
            return f"ended by signal {-code} ({_signal(-code)})"
        return f"ended with exit code {code}"

    def _text(self) -> str:
        # pread: the child writes at the position of the same open file, which a seek would move
        descriptor = self._child.output.fileno()
        new = os.pread(descriptor, os.fstat(descriptor).st_size - self._read, self._read)
        self._read += len(new)
        return new.decode("utf-8", errors="replace")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return "no name"
