"""For all tests."""

from __future__ import annotations

import os
import signal
import sys

import pytest


def pytest_configure() -> None:
    """Lets Ctrl-C be what the tests of it expect, also where this process was started in the background.

    A shell without job control starts background processes with SIGINT ignored, and their children inherit that.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Threads of several workers that wait for one another on the same cores make every step ten times as long.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> None:
    """Every test draws the same numbers, whichever tests ran before it in its process."""
    if "torch" in sys.modules:  # a test that does not need torch does not wait for it
        sys.modules["torch"].manual_seed(0)
