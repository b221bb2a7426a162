"""The same seed gives the same numbers, bit for bit, interrupted or not."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from .conftest import Command, lines_until, start, steps_of


def _weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_two_runs_of_one_seed_are_the_same_bit_for_bit_and_another_seed_is_not(work: Path, train_sft: Command) -> None:
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        assert train_sft("tiny.toml", "--output.run-dir", name, "--seed", seed) == 0
    assert len(steps_of(work / "one")) == 6
    assert steps_of(work / "one") == steps_of(work / "two")
    assert _weights(work / "one") == _weights(work / "two")
    assert [step["loss"] for step in steps_of(work / "one")] != [step["loss"] for step in steps_of(work / "other")]


def test_micro_batches_change_neither_the_rows_of_a_step_nor_its_loss(work: Path, train_sft: Command) -> None:
    for name, tokens in (("packed", 4096), ("single", 1)):
        arguments = ("--model.dtype", "float32", "--lora.dropout", "0.0", "--train.micro-batch-tokens", tokens)
        assert train_sft("tiny.toml", "--output.run-dir", name, *arguments) == 0
    packed, single = steps_of(work / "packed"), steps_of(work / "single")
    assert [step["tokens"] for step in packed] == [step["tokens"] for step in single]
    assert [step["loss"] for step in packed] == pytest.approx([step["loss"] for step in single], rel=1e-5)


def test_a_run_stopped_by_ctrl_c_and_resumed_equals_a_straight_run(work: Path, train_sft: Command) -> None:
    more = ("--train.max-steps", 300, "--checkpoint.every-steps", 0)
    process = start("train-sft", "tiny.toml", "--output.run-dir", "stopped", *more, cwd=work)
    list(lines_until(process, "step 20/300"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume stopped" in errors
    stopped = json.loads((work / "stopped" / "summary.json").read_text(encoding="utf-8"))
    assert stopped["status"] == "interrupted"
    assert 20 <= stopped["steps"] < 300
    assert not (work / "stopped" / "adapter").exists()

    assert train_sft("tiny.toml", "--resume", "stopped", *more) == 0
    assert train_sft("tiny.toml", "--output.run-dir", "straight", *more) == 0
    assert steps_of(work / "stopped") == steps_of(work / "straight")
    assert _weights(work / "stopped") == _weights(work / "straight")


def test_sigterm_writes_a_checkpoint_says_preempted_and_is_a_success_to_the_scheduler(work: Path) -> None:
    process = start("train-sft", "tiny.toml", "--train.max-steps", 3000, "--checkpoint.every-steps", 0, cwd=work)
    list(lines_until(process, "step 5/3000"))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "preempted after step" in errors
    (run,) = (work / "runs").glob("tiny-*")
    assert json.loads((run / "summary.json").read_text(encoding="utf-8"))["status"] == "preempted"
    assert len(list((run / "checkpoints").glob("step-*"))) == 1


def test_sigterm_before_there_is_a_checkpoint_is_no_success(work: Path) -> None:
    process = start("train-sft", "tiny.toml", cwd=work)
    list(lines_until(process, "load tokenizer"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75


def test_a_resumed_run_refuses_other_settings(
    work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_sft("tiny.toml", "--output.run-dir", "first") == 0
    (work / "first" / "summary.json").unlink()  # as after a kill
    assert train_sft("tiny.toml", "--resume", "first", "--optim.lr", "0.5") == 2
    assert "optim.lr: the run has 0.0002, now 0.5" in capsys.readouterr().err


def test_a_resumed_run_refuses_other_data(work: Path, train_sft: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_sft("tiny.toml", "--output.run-dir", "first") == 0
    (work / "first" / "summary.json").unlink()
    rows = (work / "rows.jsonl").read_text(encoding="utf-8")
    (work / "rows.jsonl").write_text(rows.replace("it is 3", "it is 9"), encoding="utf-8")
    assert train_sft("tiny.toml", "--resume", "first") == 2
    assert "samples_sha256" in capsys.readouterr().err


def test_ctrl_c_in_the_last_step_stops_before_the_adapter_and_resuming_finishes(
    work: Path, train_sft: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tanren.sft import callbacks

    original = callbacks.RunCallback.on_step_end

    def press_at_the_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == state.max_steps:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.RunCallback, "on_step_end", press_at_the_end)
        assert train_sft("tiny.toml", "--output.run-dir", "late") == 130
    assert not (work / "late" / "adapter").exists()
    capsys.readouterr()
    assert train_sft("tiny.toml", "--resume", "late") == 0
    assert "warning" not in capsys.readouterr().err  # the ground is the same, the times of its proofs are not
    assert train_sft("tiny.toml", "--output.run-dir", "straight") == 0
    assert steps_of(work / "late") == steps_of(work / "straight")
    assert _weights(work / "late") == _weights(work / "straight")
