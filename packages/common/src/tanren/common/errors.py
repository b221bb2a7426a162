"""Errors that end a command with one message, and the exit codes that tell who has to act.

A message follows one form: what is wrong: what was found, what was expected, what to do. It names the file, row,
column or key. Anything that is not one of these classes is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command (DESIGN: one table of small contracts)."""

    DONE = 0
    FOUND_WANTING = 1
    USER = 2
    MACHINE = 3
    PREEMPTED = 75
    INTERRUPTED = 130


class TanrenError(Exception):
    """An error that ends the command with its message alone, without a traceback."""

    exit_code: ExitCode = ExitCode.USER


class UserError(TanrenError):
    """The user can put it right: a key, a path, a row, a flag."""

    exit_code = ExitCode.USER


class FoundWantingError(TanrenError):
    """The command did its work, and what it found is not good enough to go on."""

    exit_code = ExitCode.FOUND_WANTING


class MachineError(TanrenError):
    """The machine is at fault: memory, disk, GPU, network."""

    exit_code = ExitCode.MACHINE


# What the kernel answers when a disk, a quota or a file-size limit is full; the same in words, for libraries that
# pass on the words alone (safetensors, SQLite).
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_IN_WORDS = ("no space left on device", "disk quota exceeded", "file too large", "disk is full")


def says_disk_full(error: BaseException) -> bool:
    """Whether an error means that a write found no room."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(words in str(error).lower() for words in _FULL_IN_WORDS)
