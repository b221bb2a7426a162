"""The frame around every command: exit codes, one message for a user's mistake, a clean end on Ctrl-C."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from tanren.common.errors import ExitCode, TanrenError

# What the kernel says when a disk, a quota or a file-size limit is full.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _say(disk_full(error))
        return ExitCode.MACHINE


def disk_full(error: OSError) -> str:
    """Return the message for a write that found no room."""
    where = f" {error.filename}" if error.filename else ""
    return f"the disk is full: writing{where} failed ({error.strerror}); free some space, then start again"


def _preempt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise Preempted


def _say(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
