"""The files of a run: nothing torn is read, nothing old is lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.run import MetricsWriter, read_events, read_steps, write_atomically, write_csv


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_events_are_read_as_they_were_recorded(metrics: Path) -> None:
    writer = MetricsWriter(metrics)
    writer.record("step", {"step": 1, "loss": float("nan"), "text": "a\u2028b\nc"})
    writer.record("phase", {"name": "load"})
    first, second = read_events(metrics)  # before the file is closed: every line is there at once
    writer.close()
    assert first["loss"] != first["loss"]
    assert (first["kind"], first["text"]) == ("step", "a\u2028b\nc")
    assert (second["kind"], second["name"]) == ("phase", "load")
    assert second["time"] >= first["time"] > 0


@given(cut=st.integers(1, 30))
def test_a_torn_last_line_is_never_read_and_is_cut_off_before_the_next(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "metrics.jsonl"
    whole = json.dumps({"kind": "step", "step": 1, "name": "鍛"}, ensure_ascii=False).encode() + b"\n"
    torn = whole[: len(whole) - cut]
    path.write_bytes(whole + torn)
    assert [event["step"] for event in read_events(path)] == [1]
    writer = MetricsWriter(path)
    assert path.read_bytes() == whole
    writer.record("step", {"step": 2})
    writer.close()
    assert [event["step"] for event in read_events(path)] == [1, 2]


def test_no_file_has_no_events(metrics: Path) -> None:
    assert not list(read_events(metrics))
    assert read_steps(metrics) == []


def test_steps_that_were_done_again_after_a_resume_count_once(metrics: Path) -> None:
    writer = MetricsWriter(metrics)
    for step in (1, 2, 3, 4):
        writer.record("step", {"step": step, "loss": 10.0 + step})
    writer.record("resume", {"step": 2})
    assert [event["loss"] for event in read_steps(metrics)] == [11.0, 12.0]
    writer.record("phase", {"name": "x"})
    writer.record("step", {"step": 3, "loss": 3.0})
    writer.close()
    assert [event["loss"] for event in read_steps(metrics)] == [11.0, 12.0, 3.0]
    table = metrics.with_suffix(".csv")
    write_csv(read_steps(metrics), table)
    assert table.read_text(encoding="utf-8").splitlines() == ["step,loss", "1,11.0", "2,12.0", "3,3.0"]


def test_a_write_that_fails_leaves_the_old_bytes_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_grows_beyond_its_limit_leaves_the_old_bytes_and_exit_code_3(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old", encoding="utf-8")
    code = f"""
import resource, signal, sys
from pathlib import Path
from tanren.common.command import run_command
from tanren.common.run import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.exit(run_command(lambda _: write_atomically(Path({str(path)!r}), "x" * 100_000) or 0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: the disk is full")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_line_ends_are_written_as_given(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "1\r\n2\n")
    assert (tmp_path / "a").read_bytes() == b"1\r\n2\n"
