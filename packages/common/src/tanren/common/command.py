"""The frame around every command: exit codes, one message for a user's mistake, a clean end on Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from tanren.common.errors import ExitCode, TanrenError, says_disk_full


class Preempted(BaseException):
    """SIGTERM arrived: the scheduler wants the machine back. Not an Exception, so that no handler swallows it."""


def run_command(main: Callable[[Sequence[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Run `main` and turn what ends it into an exit code and at most one message on standard error."""
    signal.signal(signal.SIGTERM, _preempt)
    try:
        return main(sys.argv[1:] if arguments is None else arguments)
    except TanrenError as error:
        _say(str(error))
        return error.exit_code
    except Preempted:
        _say("stopped by SIGTERM")
        return ExitCode.PREEMPTED
    except KeyboardInterrupt:
        _say("stopped by Ctrl-C")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away: nothing more can be said, and the interpreter must not try at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except Exception as error:
        if not says_disk_full(error):
            raise
        said = (
            f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
            if isinstance(error, OSError)
            else error
        )
        _say(f"the disk is full: {said}; free some space, then start again (a run with a checkpoint: with --resume)")
        return ExitCode.MACHINE


def _preempt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise Preempted


def _say(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
