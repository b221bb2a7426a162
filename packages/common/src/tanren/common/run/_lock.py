"""One process at a time writes a run directory: a run that still runs cannot be resumed beside itself."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tanren.common.errors import UserError

from ._directory import RunDirectory


@contextmanager
def held(run: RunDirectory) -> Iterator[None]:
    """Hold a run directory for this process; the system lets go of it whenever the process ends, however it does.

    Raises UserError where another process holds it.
    """
    with (run.path / ".lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"the run {run.path} is still running in another process; stop that one first (Ctrl-C, or SIGTERM: it writes a "
                "checkpoint), then resume"
            ) from None
        yield
