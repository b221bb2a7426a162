"""`tanren watch`: curves of a run as they grow, until it ends."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tanren.common.command import run_command
from tanren.common.run import MetricsWriter, RunDirectory
from tanren.common.watch import run_watch


def _step(metrics: MetricsWriter, number: int, **values: float | None) -> None:
    metrics.record("step", {"step": number, "parse_rate": 0.5, "reward": 0.1 * number, **values})


def _end(run: RunDirectory) -> None:
    run.write_json(run.summary, {"status": "done"})
    later = run.metrics.stat().st_mtime + 1
    os.utime(run.summary, (later, later))


def test_it_draws_each_new_step_and_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory(tmp_path)

    def train() -> None:
        metrics = MetricsWriter(run.metrics)
        for number in (1, 2, 3):
            time.sleep(0.05)
            _step(metrics, number, accuracy=None if number == 1 else 0.25)
        metrics.close()
        _end(run)

    thread = threading.Thread(target=train)
    thread.start()
    assert run_watch(tmp_path, None, 0.01, once=False) == 0
    thread.join()
    said = capsys.readouterr().err
    assert "step 3: parse rate 0.5  accuracy 0.25  mean reward 0.3" in said
    drawn = (tmp_path / "watch.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    assert drawn.count('<g id="axes_') == 3


def test_a_run_that_was_resumed_goes_on_being_watched(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    metrics = MetricsWriter(run.metrics)
    _step(metrics, 1)
    _end(run)
    os.utime(run.summary, (1, 1))  # what it said before it was resumed
    out = tmp_path / "curves.svg"
    threading.Timer(0.1, lambda: _end(run)).start()
    assert run_watch(tmp_path, out, 0.01, once=False) == 0
    assert out.is_file()


def test_what_is_no_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tanren.common.cli import _main

    for folder, told in ((tmp_path / "none", "no run there"), (tmp_path, "has no step yet")):
        assert run_command(_main, ["watch", str(folder), "--once"]) == 2
        assert told in capsys.readouterr().err
