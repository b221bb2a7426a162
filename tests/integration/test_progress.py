"""What a user sees while it runs, and where the numbers go."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import ROOT, SCRIPTS, Command


def test_a_terminal_gets_a_live_bar_with_loss_speed_and_time_left(work: Path) -> None:
    leader, follower = pty.openpty()
    begun = time.monotonic()
    process = subprocess.Popen(
        [SCRIPTS / "train-sft", "tiny.toml"],
        stderr=follower,
        stdout=follower,
        cwd=work,
        env={**os.environ, "PIXI_PROJECT_ROOT": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "140"},
    )
    os.close(follower)
    seen, first = b"", 0.0
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        first = first or time.monotonic() - begun
        seen += data
    assert process.wait(timeout=60) == 0
    text = seen.decode()
    print(f"first output after {first:.2f} s (target: 2 s)")  # noqa: T201
    assert "━" in text  # the bar itself
    assert "6/6 step" in text
    for fact in ("loss", "tokens/s", "left"):
        assert fact in text


def test_without_a_terminal_every_logged_step_is_one_plain_line(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_sft("tiny.toml", "--train.log-every", 2, "--checkpoint.every-steps", 0) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "step " in line and "loss" in line]
    assert len(lines) == 3
    assert all("tokens/s" in line and "s left" in line and "\x1b" not in line for line in lines)


def test_mlflow_keeps_every_step_in_a_sqlite_file(work: Path, train_sft: Command) -> None:
    from mlflow import MlflowClient

    assert train_sft("tiny.toml", "--tracking.mlflow") == 0
    client = MlflowClient(tracking_uri=f"sqlite:///{work}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("tanren-sft")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["lora.rank"] == "16"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4, 5, 6]
