"""kill -9 in the middle of an evaluation: it goes on with what was generated, and ends as one that was never stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tanren.common.run import resume_command

Evaluate = Callable[..., int]
DRAWN = ["--generation.samples", "3", "--generation.temperature", "1.5"]

# One process imports the libraries; each run is a fork of it, killed for good where it is about to write for the n-th time.
KILLS = """
import os, signal, sys
from pathlib import Path

import peft, tanren.evaluate.generation, tanren.evaluate.job, tanren.evaluate.loaded_models
from tanren.common.command import run_command
from tanren.evaluate.cli import _main

ARGUMENTS = sys.argv[1:]


def run(*where, event="open", end="", times=0):
    child = os.fork()
    if child == 0:
        seen = []

        def watch(name, arguments):
            if name == event and end and str(arguments[name == "os.rename"]).endswith(end):
                seen.append(name)
                if len(seen) == times:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        os._exit(run_command(_main, [*ARGUMENTS, *where]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


partial = Path("killed/evaluation/base/predictions.partial.jsonl")
print("the third batch is not yet written", run("--output.run-dir", "killed", end=".partial.jsonl", times=3))
print(len(partial.read_text().splitlines()), "predictions")
whole = partial.read_bytes()
partial.write_bytes(whole[: -len(whole) // 12])  # and the last line is torn
print("again, two batches on", run("--resume", "killed", end=".partial.jsonl", times=4))
print("its predictions are whole, and not yet renamed", run("--resume", "killed", event="os.rename", end="base/predictions.jsonl", times=1))
print("at last", run("--resume", "killed"))
"""


def test_a_killed_evaluation_goes_on_and_ends_as_one_that_never_was(
    work: Path, evaluate: Evaluate, make_adapter: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_adapter("one", 1)
    arguments = ["quick.toml", "--candidate", "one", *DRAWN]
    done = subprocess.run(
        [sys.executable, "-c", KILLS, *arguments], cwd=work, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines() == [
        "the third batch is not yet written -9",
        "6 predictions",
        "again, two batches on -9",
        "its predictions are whole, and not yet renamed -9",
        "at last 0",
    ], done.stderr
    assert "predictions of this run are there already" in done.stderr
    assert evaluate(*arguments, "--output.run-dir", "straight") == 0
    for name in ("base", "one"):
        found = [
            Path(run, "evaluation", name, "predictions.jsonl").read_text("utf-8") for run in ("killed", "straight")
        ]
        assert found[0] == found[1]
    scores = [json.loads(Path(run, "summary.json").read_text("utf-8"))["evaluation"] for run in ("killed", "straight")]
    assert scores[0] == scores[1]
    assert not list(Path("killed").rglob("*partial*"))
    capsys.readouterr()
    assert evaluate(*arguments, "--resume", "killed") == 2
    assert "this run is finished" in capsys.readouterr().err


def test_a_run_goes_on_only_with_its_own_settings(
    work: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("quick.toml", "--output.run-dir", "run") == 0
    Path("run/summary.json").unlink()  # as after a kill
    assert evaluate("quick.toml", "--generation.max-new-tokens", "5", "--resume", "run") == 2
    assert "generation.max_new_tokens: then 6, now 5" in capsys.readouterr().err
    program, *arguments = resume_command(Path("run"), verify=False)
    assert Path(program).name == "evaluate"
    assert evaluate(*arguments) == 0
    assert "4 predictions of this run are there already" in capsys.readouterr().err
    assert Path("run/summary.json").is_file()
