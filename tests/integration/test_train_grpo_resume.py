"""A run of train-grpo that was broken off goes on as if it had not been: the same prompts, words, gradients, bits."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import lines_until, start
from .grpo_runs import lines_of, numbers_of, summary_of

Command = Callable[..., int]
ROOT = Path(__file__).resolve().parents[2]
# What uses random numbers and states: dropout, a second update with old log-probabilities, prompts drawn again.
FLAGS = (
    "letters.toml",
    "--train.steps",
    "5",
    "--train.updates-per-step",
    "2",
    "--rollout.refills",
    "1",
    "--lora.dropout",
    "0.1",
    "--checkpoint.every-steps",
    "2",
    "--checkpoint.keep",
    "9",
)


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_died_goes_on_bit_for_bit_and_loses_no_log(
    train_grpo: Command, letters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, died = letters / "whole", letters / "died"
    assert train_grpo(*FLAGS, "--output.run-dir", whole) == 0
    # As if it had died in step 4, after its completions were logged, with a line torn.
    shutil.copytree(whole, died)
    for name in ("summary.json", "generations.csv", "metrics.csv", "report.html"):
        (died / name).unlink()
    shutil.rmtree(died / "adapter")
    shutil.rmtree(died / "checkpoints" / "step-4")
    logged = (died / "generations.jsonl").read_bytes()
    (died / "generations.jsonl").write_bytes(logged[: len(logged) * 7 // 10])
    before = (died / "generations.jsonl").read_bytes()

    assert train_grpo(*FLAGS, "--output.run-dir", whole, "--resume", died) == 0
    assert "resuming after step 2 of 5" in capsys.readouterr().err
    assert numbers_of(died) == numbers_of(whole)
    assert lines_of(died) == lines_of(whole)
    assert (died / "generations.csv").read_bytes() == (whole / "generations.csv").read_bytes()
    weights = "adapter/adapter_model.safetensors"
    assert (died / weights).read_bytes() == (whole / weights).read_bytes()
    # Only appended to: what stood there stands there, but for the torn line.
    after = (died / "generations.jsonl").read_bytes()
    assert after.startswith(before[: before.rfind(b"\n") + 1])
    assert summary_of(died)["completions"] == 5 * 32


@pytest.mark.filterwarnings("ignore")
def test_a_run_is_not_resumed_with_other_settings_or_prompts(
    train_grpo: Command, letters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = letters / "run"
    assert train_grpo(*FLAGS, "--output.run-dir", run) == 0
    (run / "summary.json").unlink()
    assert train_grpo(*FLAGS, "--resume", run, "--optim.lr", 0.5) == 2
    assert "optim.lr: the run has 0.015, now 0.5" in capsys.readouterr().err
    task = letters / "letters" / "task.py"
    task.write_text(task.read_text(encoding="utf-8").replace("say {n}", "write {n}"), encoding="utf-8")
    for name in [name for name in sys.modules if name.startswith("tanren_task_letters")]:
        del sys.modules[name]  # a new process would read the pack anew
    assert train_grpo(*FLAGS, "--resume", run) == 2
    assert "cannot be resumed: prompts_sha256 was" in capsys.readouterr().err


def test_a_preempted_run_writes_a_checkpoint_and_says_how_to_go_on(letters: Path) -> None:
    run = letters / "run"
    process = start("train-grpo", "letters.toml", "--train.steps", 4000, "--output.run-dir", run, cwd=letters)
    try:
        *_, said = lines_until(process, "step 2/4000")
        assert "reward" in said
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 0
    assert "SIGTERM: finishing this step, then writing a checkpoint" in rest
    assert f"to continue: the same command with --resume {run}" in rest
    assert summary_of(run)["status"] == "preempted"
    done = len(numbers_of(run))
    assert (run / "checkpoints" / f"step-{done}").is_dir()
    assert {line["step"] for line in lines_of(run)} == set(range(1, done + 1))


@pytest.mark.filterwarnings("ignore")
def test_resuming_is_verified_against_a_straight_piece_and_the_run_itself(
    train_grpo: Command, letters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = letters / "run"
    assert train_grpo(*FLAGS, "--output.run-dir", run) == 0
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    capsys.readouterr()
    assert train_grpo(run / "config.toml", "--resume", run, "--verify") == 0
    told = capsys.readouterr().err
    assert "stopped and resumed / straight: weights, optimizer, rate and random states after step" in told
    assert "straight / the run itself: completions, reward, loss, grad_norm, lr of steps" in told
    assert "is bit for bit" in told
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before

    log = run / "generations.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    last = max(line["step"] for line in lines)
    changed = [line | {"completion": "another"} if line["step"] == last else line for line in lines]
    log.write_text("".join(json.dumps(line) + "\n" for line in changed), encoding="utf-8")
    assert train_grpo(run / "config.toml", "--resume", run, "--verify") == 1
    assert f"different: straight / the run itself: completions of step {last}: " in capsys.readouterr().err
