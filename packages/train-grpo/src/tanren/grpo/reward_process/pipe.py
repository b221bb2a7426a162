"""Messages over pipes between the trainer and the process that runs rewards, each with a deadline.

A message is eight bytes of length and that many bytes. Both ends of the trainer are non-blocking: a child that neither
reads nor writes cannot hold it up.
"""

from __future__ import annotations

import math
import os
import select
import time

HEAD = 8


class OvertimeError(Exception):
    """The deadline passed before the message was through."""


class ClosedError(Exception):
    """The other side is gone."""


def send(fd: int, message: bytes, deadline: float) -> None:
    """Write a message before the deadline (of time.monotonic). Raises OvertimeError, ClosedError."""
    left = memoryview(len(message).to_bytes(HEAD, "big") + message)
    while left:
        _wait(fd, select.POLLOUT, deadline)
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            continue
        except BrokenPipeError:
            raise ClosedError from None


def receive(fd: int, deadline: float) -> bytes:
    """Read a message before the deadline. Raises OvertimeError, ClosedError."""
    return _read(fd, int.from_bytes(_read(fd, HEAD, deadline), "big"), deadline)


def _read(fd: int, size: int, deadline: float) -> bytes:
    found = bytearray()
    while len(found) < size:
        _wait(fd, select.POLLIN, deadline)
        try:
            piece = os.read(fd, size - len(found))
        except BlockingIOError:
            continue
        if not piece:
            raise ClosedError
        found += piece
    return bytes(found)


def _wait(fd: int, event: int, deadline: float) -> None:
    left = deadline - time.monotonic()
    poll = select.poll()  # not select.select, which knows no file above 1023: an engine may have opened many
    poll.register(fd, event)
    if left <= 0 or not poll.poll(None if math.isinf(left) else math.ceil(1000 * left)):
        raise OvertimeError
