"""kill -9 at any moment loses at most the steps since the last checkpoint; resume --verify says so of a machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tanren.common.cli import _main as tanren
from tanren.common.command import run_command
from tanren.common.run import resume_command

from .conftest import Command, steps_of

# One process imports the libraries; each run is a fork of it, which is killed for good: in the middle of what it does
# to its files (Python says each of these before it does it), and once by the clock.
KILLS = """
import os, signal, sys, time
from pathlib import Path

import tanren.sft.loop, tanren.sft.job, tanren.sft.sample_source, peft, tanren.evaluate.report
from tanren.common.command import run_command
from tanren.sft.cli import _main

FLAGS = ["--train.max-steps", "24", "--checkpoint.every-steps", "4", "--model.threads", "1"]
MOMENTS = {
    "the checkpoint is half written": ("open", ".step-8.partial/loop.json"),
    "it is written, and not yet renamed": ("os.rename", ".step-8.partial"),
    "an old one is about to be deleted": ("os.rename", "checkpoints/step-4"),
    "an old one is half deleted": ("shutil.rmtree", ".step-8.deleted/half"),
    "the adapter is not yet renamed": ("os.rename", ".adapter.partial"),
}


def die_at(event, end):
    seen = []

    def watch(name, arguments):
        if name == event and str(arguments[0]).endswith(end.removesuffix("/half")):
            seen.append(name)
            if not end.endswith("/half"):
                os.kill(os.getpid(), signal.SIGKILL)
        elif name == "os.remove" and seen:
            seen.append(name)
            if len(seen) == 4:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def run(*where, moment=None, seconds=None):
    child = os.fork()
    if child == 0:
        if moment:
            die_at(*moment)
        os._exit(run_command(_main, ["tiny.toml", *FLAGS, *where]))
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


where = ["--output.run-dir", "killed"]
for name, moment in MOMENTS.items():
    print(name, run(*where, moment=moment), sorted(path.name for path in Path("killed/checkpoints").iterdir()))
    where = ["--resume", "killed"]
print("by the clock", run(*where, seconds=0.6))
print("at last", run(*where))
"""


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_never_was(work: Path, train_sft: Command) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLS], cwd=work, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.splitlines() == [
        "the checkpoint is half written -9 ['.step-8.partial', 'step-4']",
        "it is written, and not yet renamed -9 ['.step-8.partial', 'step-4']",
        "an old one is about to be deleted -9 ['step-12', 'step-4', 'step-8']",
        "an old one is half deleted -9 ['.step-4.deleted', '.step-8.deleted', 'step-12', 'step-16']",
        "the adapter is not yet renamed -9 ['step-16', 'step-20']",
        "by the clock -9",
        "at last 0",
    ], done.stderr
    flags = ("--train.max-steps", 24, "--checkpoint.every-steps", 4, "--model.threads", 1)
    assert train_sft("tiny.toml", "--output.run-dir", "straight", *flags) == 0
    assert steps_of(work / "killed") == steps_of(work / "straight")
    adapters = [work / name / "adapter" / "adapter_model.safetensors" for name in ("killed", "straight")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    left = {path.name for path in (work / "killed").rglob(".*")}
    assert left == {".lock"}  # nothing that was left half done lies about


def test_resuming_is_verified_against_a_straight_piece_and_the_run_itself(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_sft("tiny.toml", "--output.run-dir", "run", "--train.max-steps", 9, "--model.threads", 1) == 0
    before = sorted(path.relative_to(work) for path in work.rglob("*"))
    capsys.readouterr()
    assert train_sft("run/config.toml", "--resume", "run", "--verify") == 0
    told = capsys.readouterr().err
    assert "from its checkpoint after step 3 to step 7, straight and with a stop after 5" in told
    assert "stopped and resumed / straight: weights, optimizer, rate and random states after step 7: equal" in told
    assert "straight / the run itself: loss, grad_norm, lr of steps 4 to 7: equal" in told
    assert "bit for bit" in told
    assert sorted(path.relative_to(work) for path in work.rglob("*")) == before

    metrics = work / "run" / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines()
    changed = [json.loads(line) for line in lines]
    for event in changed:
        if event["kind"] == "step" and event["step"] == 5:
            event["loss"] += 1e-7
    metrics.write_text("".join(json.dumps(event) + "\n" for event in changed), encoding="utf-8")
    assert train_sft("run/config.toml", "--resume", "run", "--verify") == 1
    assert "different: straight / the run itself: loss of step 5: " in capsys.readouterr().err


def test_tanren_resume_is_the_command_of_the_run_with_its_own_recipe(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--seed", 5, "--checkpoint.every-steps", 2, "--model.threads", 1)
    for name in ("first", "straight"):
        assert train_sft("tiny.toml", "--output.run-dir", name, *flags) == 0
    (work / "first" / "summary.json").unlink()  # as after a kill
    (work / "tiny.toml").unlink()
    program, *arguments = resume_command(Path("first"), verify=False)
    assert Path(program).name == "train-sft"
    assert arguments == ["first/config.toml", "--resume", "first"]
    assert train_sft(*arguments) == 0
    assert steps_of(work / "first") == steps_of(work / "straight")
    assert resume_command(Path("first"), verify=True)[-1] == "--verify"
    assert run_command(tanren, ["resume", "nowhere"]) == 2
    assert "nowhere: no run there" in capsys.readouterr().err
