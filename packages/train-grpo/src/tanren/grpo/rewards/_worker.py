"""The trainer's side of the process that runs rewards: started once, kept, ended and started again when it does not answer."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tanren.common.errors import UserError
from tanren.grpo.reward_process.pipe import ClosedError, OvertimeError, receive, send
from tanren.grpo.reward_process.protocol import TAKEN, Request, Setup

START_S = 120.0
"""To import the pack and the functions, with whatever they import (torch from a cold network disk: a minute)."""


class FailedError(Exception):
    """A call did not give results; the message says why, in words that follow the reward's name."""


class StoppedError(FailedError):
    """The call took too long, or took the process with it: the process is gone."""


class NotTakenError(StoppedError):
    """The process was gone before it took the request: no code was asked, so none is at fault."""


class ToldToEndError(StoppedError):
    """SIGTERM ended the process: a scheduler sends it to all, and no code is at fault."""


class Worker:
    """A child process that is there from `start` to `end`; `ask` starts it again where it is gone."""

    def __init__(self, setup: Setup, log: Path | None = None) -> None:
        """Prepare; `log` is the file for what the user's code prints (None: the trainer's standard error)."""
        self._setup = setup
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._to = self._from = -1

    @property
    def log_name(self) -> str:
        """Where what was printed is to be found."""
        return str(self._log) if self._log else "standard error"

    def start(self) -> bool:
        """Start the process where it is gone, and wait until it has loaded everything; return whether it was started.

        Raises UserError where that fails.
        """
        if self._process is not None and self._process.poll() is not None:
            self.end()  # it died between two calls: of nothing that it was asked
        if self._process is not None:
            return False
        child_reads, self._to = os.pipe()
        self._from, child_writes = os.pipe()
        for fd in (self._to, self._from):
            os.set_blocking(fd, False)
        output: Any = sys.stderr.fileno() if self._log is None else self._log.open("ab")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tanren.grpo.reward_process.child", str(child_reads), str(child_writes)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(child_reads, child_writes),
                start_new_session=True,  # Ctrl-C is the trainer's to handle; and what it started ends with it
            )
        finally:
            os.close(child_reads)
            os.close(child_writes)
            if self._log is not None:
                output.close()
        try:
            answer = self._exchange(pickle.dumps(self._setup), START_S, taken=True)
        except StoppedError as error:
            raise UserError(f"the rewards could not be loaded: the process {error}; see {self.log_name}") from None
        if "error" in answer:
            self.end()
            raise UserError(f"the rewards could not be loaded: {answer['error']}")
        return True

    def ask(self, request: Request, limit: float) -> list[Any]:
        """Return the results of a call, one for each completion.

        Raises StoppedError where it took longer than `limit` seconds or the process died (ToldToEndError: by SIGTERM),
        FailedError where the code raised or gave another number of results, UserError where the process cannot be started again.
        """
        message = _pickled(request)
        self.start()
        try:
            answer = self._exchange(message, limit)
        except NotTakenError:
            self.start()
            answer = self._exchange(message, limit)
        if "error" in answer:
            raise FailedError(f"raised {answer['error']}")
        results: list[Any] = answer["results"]
        if len(results) != len(request.completions):
            raise FailedError(f"returned {len(results)} numbers for {len(request.completions)} completions")
        return results

    def end(self) -> None:
        """End the process with all that it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        for fd in (self._to, self._from):
            os.close(fd)

    def _exchange(self, message: bytes, limit: float, *, taken: bool = False) -> dict[str, Any]:
        """Send a message and return the answer; `taken`: it is not acknowledged apart."""
        deadline = time.monotonic() + limit
        try:
            send(self._to, message, deadline)
            if not taken:
                taken = json.loads(receive(self._from, deadline)) == TAKEN
            answer: dict[str, Any] = json.loads(receive(self._from, deadline))
        except OvertimeError:
            self.end()
            raise StoppedError(f"did not answer within {limit:g} s") from None
        except ClosedError:
            died = _death(self._exit_code())
            raise (died if taken else NotTakenError(str(died))) from None
        except BaseException:  # Ctrl-C in between: the next answer would be taken for another question's
            self.end()
            raise
        return answer

    def _exit_code(self) -> int | None:
        assert self._process is not None, "it was just spoken to"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)  # the pipe is closed a moment before the process is gone
        code = self._process.returncode
        self.end()
        return code


def _death(code: int | None) -> StoppedError:
    if code is None:
        return StoppedError("closed its pipe")
    if code == -signal.SIGTERM:
        return ToldToEndError("died (SIGTERM)")
    return StoppedError(f"died ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}")


def _pickled(request: Request) -> bytes:
    try:
        return pickle.dumps(request)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        row = next((row for row in request.rows if not _can_be_pickled(row)), request.rows[0])
        raise UserError(
            f"row {row.id}: it cannot be handed to the process that runs rewards: {error}; expected and metadata must be "
            "values that JSON has"
        ) from None


def _can_be_pickled(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return True
