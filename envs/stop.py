"""How the scripts here end where they cannot go on: one message, an exit code, no traceback. Standard library only."""

from __future__ import annotations


class Stop(Exception):  # noqa: N818 (it ends the command; most are not program errors)
    """Ends the command with its message and exit code: 1 found wanting, 2 the user's mistake, 3 the machine's."""

    def __init__(self, code: int, message: str) -> None:
        """Keeps the exit code beside the message."""
        super().__init__(message)
        self.code = code
