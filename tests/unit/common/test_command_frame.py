"""The frame around a command: exit codes, and one message where the user or the machine has to act."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator, Sequence

import pytest

from tanren.common.command import Preempted, run_command
from tanren.common.errors import MachineError, UserError


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _raising(error: BaseException) -> Callable[[Sequence[str]], int]:
    def main(_: Sequence[str]) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("recipe x: wrong"), 2, "recipe x: wrong"),
        (MachineError("the GPU fell off"), 3, "the GPU fell off"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (Preempted(), 75, "stopped by SIGTERM"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            3,
            "the disk is full: No space left on device: /x/y; free some space",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 3, "the disk is full: Disk quota exceeded; free some space"),
    ],
)
def test_what_ends_a_command_becomes_an_exit_code_and_one_message(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(_raising(error), []) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.EIO, "broken"), AssertionError()])
def test_a_bug_keeps_its_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(error)) as caught:
        run_command(_raising(error), [])
    assert caught.value is error
    assert capsys.readouterr().err == ""


def test_arguments_are_handed_on_and_the_code_is_handed_back() -> None:
    assert run_command(len, ["a", "b"]) == 2
    assert run_command(lambda _: 0, []) == 0


def test_sigterm_is_noted_as_preemption(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: Sequence[str]) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:  # noqa: BLE001 (that such a handler does not swallow it is the point)
            pytest.fail(f"swallowed {error!r}")
        return 0

    assert run_command(main, []) == 75
    assert "SIGTERM" in capsys.readouterr().err
