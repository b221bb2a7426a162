"""Ctrl-C and SIGTERM during training: the first is noted, the second ends at once."""

from __future__ import annotations

import io
import os
import signal

import pytest

from tanren.common.console import Console
from tanren.common.errors import ExitCode
from tanren.common.interruption import watch_for_interruption


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(signal.SIGINT, "interrupted", ExitCode.INTERRUPTED), (signal.SIGTERM, "preempted", ExitCode.DONE)],
)
def test_the_first_signal_is_noted_and_said(number: signal.Signals, status: str, code: ExitCode) -> None:
    stream = io.StringIO()
    before = signal.getsignal(number)
    with watch_for_interruption(Console(stream=stream)) as interruption:
        assert interruption.status is None
        os.kill(os.getpid(), number)
        assert interruption.status == status
        assert interruption.exit_code is code
    assert f"{number.name}: finishing this step, then writing a checkpoint" in stream.getvalue()
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once() -> None:
    with watch_for_interruption(Console(stream=io.StringIO())):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
