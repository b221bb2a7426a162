"""What people see, and what is recorded of it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tanren.common.console import Console


class _Sink:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        self.events.append((kind, dict(values)))


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(stream: io.StringIO) -> Console:
    return Console(stream=stream)


def test_a_phase_is_said_when_it_begins(console: Console, stream: io.StringIO) -> None:
    with console.phase("load model", "tiny"):
        said = stream.getvalue()
    assert re.fullmatch(r"\[ +\d+\.\d s\] load model: tiny \.\.\.\n", said)


def test_phases_from_before_a_run_directory_are_recorded_when_it_is_there(console: Console) -> None:
    with console.phase("import"):
        pass
    sink = _Sink()
    console.attach(sink)
    with console.phase("load", "x"):
        pass
    names = [(kind, values["name"], values["detail"]) for kind, values in sink.events]
    assert names == [("phase", "import", ""), ("phase", "load", "x")]
    assert all(values["seconds"] >= 0 for _, values in sink.events)


def test_seconds_of_a_phase_that_comes_again_are_added_up(console: Console) -> None:
    for _ in range(2):
        with console.phase("save"):
            pass
    first = console.seconds["save"]
    with console.phase("save"):
        pass
    assert console.seconds["save"] > first
    assert list(console.seconds) == ["save"]


def test_without_a_terminal_progress_comes_as_plain_lines(console: Console, stream: io.StringIO) -> None:
    assert not console.live
    with console.bar("train", 4, "step") as bar:
        bar.advance(0.5)
        assert stream.getvalue() == ""
        bar.report(1, "loss 2.0")
    assert stream.getvalue().endswith("] step 1/4  loss 2.0\n")
    assert "\x1b" not in stream.getvalue()


def test_brackets_and_long_lines_stay_as_they_are(console: Console, stream: io.StringIO) -> None:
    console.line("[red]no markup[/red] " + "x" * 300)
    assert stream.getvalue().endswith("] [red]no markup[/red] " + "x" * 300 + "\n")


def test_warnings_name_themselves_and_everything_goes_to_the_log(console: Console, stream: io.StringIO) -> None:
    console.log = io.StringIO()
    console.warn("careful")
    console.text("a table")
    assert "warning: careful" in stream.getvalue()
    assert console.log.getvalue() == stream.getvalue()
