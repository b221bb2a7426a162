"""The trainer on a laid-out run: what it logs, what it saves, and that it learns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from tanren.common.chat import Sample
from tanren.common.console import Bar
from tanren.common.run import RunDirectory, read_steps
from tanren.sft.loss import packed_loss
from tanren.sft.packing import MicroBatch, Steps, lay_out
from tanren.sft.store import TrainingSamples
from tanren.sft.trainer import SftTrainer

pytestmark = pytest.mark.usefixtures("one_thread")
MakeSample = Callable[..., Sample]
MakeTrainer = Callable[..., AbstractContextManager[SftTrainer]]


@pytest.fixture
def steps(make: MakeSample) -> Steps:
    samples = [make([10 + index, 20, 30 + index, 40], row_id=str(index)) for index in range(6)]
    return lay_out(samples, rows=12, rows_per_step=3, budget=8, seed=1)


def test_each_step_is_logged_with_the_mean_loss_over_its_learned_tokens(
    tmp_path: Path, steps: Steps, trainer_in: MakeTrainer
) -> None:
    samples = [sample for micro_batch in steps[0].micro_batches for sample in micro_batch.samples]
    with trainer_in(tmp_path, steps) as trainer:
        model: Any = trainer.model
        losses = [packed_loss(model, MicroBatch((sample,)), "cpu").item() for sample in samples]
        expected = sum(losses) / (3 * len(samples))
        trainer.train()
    logged = read_steps(tmp_path / "metrics.jsonl")
    assert [(event["step"], event["tokens"], event["supervised_tokens"]) for event in logged] == [
        (step, 12, 9) for step in (1, 2, 3, 4)
    ]
    assert logged[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert logged[-1]["loss"] < logged[0]["loss"] - 0.5
    assert all(event["grad_norm"] > 0 and event["lr"] == 0.01 for event in logged)


def test_training_without_clipping_logs_its_gradient_norm_too(
    tmp_path: Path, steps: Steps, trainer_in: MakeTrainer
) -> None:
    for name, clip in (("clipped", 1e9), ("free", 0)):
        (tmp_path / name).mkdir()
        with trainer_in(tmp_path / name, steps, optim={"lr": 0.01, "max_grad_norm": clip}) as trainer:
            trainer.train()
    clipped, free = (read_steps(tmp_path / name / "metrics.jsonl") for name in ("clipped", "free"))
    assert [event["loss"] for event in free] == [event["loss"] for event in clipped]
    assert [event["grad_norm"] for event in free] == pytest.approx([event["grad_norm"] for event in clipped])


def test_figures_read_while_the_next_step_runs_are_the_same(
    tmp_path: Path, steps: Steps, make: MakeSample, trainer_in: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "checkpoint": {"every_steps": 3},
        "validation": {"every_steps": 2},
        "train": {"log_every": 2},
    }
    for name in ("at once", "late"):
        (tmp_path / name).mkdir()
        if name == "late":
            monkeypatch.setattr(SftTrainer, "_reads_late", lambda _, optimizer: optimizer.defaults["fused"])
        with trainer_in(tmp_path / name, steps, validated=[make([10, 20, 30])], **settings) as trainer:
            trainer.train()
    runs = [
        [
            {key: value for key, value in event.items() if "second" not in key and key != "time"}
            for event in map(json.loads, (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
            if event["kind"] in {"step", "validation"}
        ]
        for name in ("at once", "late")
    ]
    assert [event["step"] for event in runs[0] if event["kind"] == "step"] == [2, 3, 4]  # each checkpoint begins anew
    assert runs[0] == runs[1]


def test_checkpoints_are_written_whole_and_the_newest_kept(
    tmp_path: Path, steps: Steps, trainer_in: MakeTrainer
) -> None:
    with trainer_in(tmp_path, steps, checkpoint={"every_steps": 1, "keep": 2}) as trainer:
        trainer.train()
    run = RunDirectory(tmp_path)
    assert run.checkpoint_steps() == [2, 3]
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-2", "step-3"}
    assert (run.checkpoint(3) / "optimizer.pt").is_file()


def test_a_run_that_is_interrupted_and_resumed_ends_with_the_same_losses(
    tmp_path: Path, steps: Steps, trainer_in: MakeTrainer
) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    with trainer_in(tmp_path / "whole", steps) as trainer:
        trainer.train()
    with trainer_in(tmp_path / "parts", steps, until=1) as trainer:
        trainer.train()
        assert trainer.state.global_step == 1
    with trainer_in(tmp_path / "parts", steps) as trainer:
        trainer.train(resume_from_checkpoint=str(RunDirectory(tmp_path / "parts").checkpoint(1)))
    whole, parts = (read_steps(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [event["step"] for event in parts] == [1, 2, 3, 4]
    assert [event["loss"] for event in parts] == [event["loss"] for event in whole]


def test_several_steps_between_two_logs_are_averaged(tmp_path: Path, steps: Steps, trainer_in: MakeTrainer) -> None:
    for name, every in (("each", 1), ("both", 2)):
        (tmp_path / name).mkdir()
        with trainer_in(tmp_path / name, steps, train={"log_every": every}) as trainer:
            trainer.train()
    each, both = (read_steps(tmp_path / name / "metrics.jsonl") for name in ("each", "both"))
    losses = [event["loss"] for event in each]
    assert [event["loss"] for event in both] == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2])
    assert [event["tokens"] for event in both] == [24, 24]


def test_rows_in_one_pass_or_one_by_one_train_the_same_weights(
    tmp_path: Path, make: MakeSample, trainer_in: MakeTrainer
) -> None:
    samples = [make(range(10, 14 + 3 * index), prompt=1 + index % 3, row_id=str(index)) for index in range(8)]
    weights, numbers = [], []
    for budget in (1000, 60, 1):  # 1 x 8, about 2 x 4, 8 x 1
        steps = lay_out(samples, rows=16, rows_per_step=8, budget=budget, seed=1)
        folder = tmp_path / str(budget)
        folder.mkdir()
        with trainer_in(folder, steps) as trainer:
            trainer.train()
        model: Any = trainer.model
        weights.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))
        logged = read_steps(folder / "metrics.jsonl")
        numbers.append([event[key] for event in logged for key in ("loss", "grad_norm")])
    counts = [len(lay_out(samples, rows=8, rows_per_step=8, budget=b, seed=1)[0].micro_batches) for b in (1000, 60, 1)]
    assert counts[0] == 1
    assert 1 < counts[1] < 8
    assert counts[2] == 8
    for other, logged_numbers in zip(weights[1:], numbers[1:], strict=True):
        assert logged_numbers == pytest.approx(numbers[0], rel=1e-5)
        # Adam divides by the gradient's own size, so rounding in a tiny one shows: at most 1/200 of the two steps of 0.01.
        torch.testing.assert_close(other, weights[0], rtol=0, atol=1e-4)


def test_the_probe_changes_nothing_of_the_run(tmp_path: Path, steps: Steps, trainer_in: MakeTrainer) -> None:
    lines: list[str] = []
    for name in ("plain", "probed"):
        (tmp_path / name).mkdir()
        noise = {"neftune_alpha": 5.0}  # its random numbers are those that a probe would use up
        with trainer_in(tmp_path / name, steps, said=lines, train=noise) as trainer:
            if name == "probed":
                trainer.probe(0)
            trainer.train()
    plain, probed = (read_steps(tmp_path / name / "metrics.jsonl") for name in ("plain", "probed"))
    assert [event["loss"] for event in probed] == [event["loss"] for event in plain]
    assert [event["grad_norm"] for event in probed] == [event["grad_norm"] for event in plain]
    told = "".join(lines)
    assert "probe: the largest micro-batch, 8 tokens" in told
    assert re.search(r"one step takes about \d+\.\d s: 4 steps, \d+\.\d s, done about \d\d:\d\d", told)
    assert told.count("step 1: micro-batch 1 of 2, 8 tokens, ") == 2
    assert "step 2: micro-batch" not in told


def test_a_step_with_few_tokens_to_learn_stands_out(tmp_path: Path, make: MakeSample, trainer_in: MakeTrainer) -> None:
    rich, poor = make(range(10, 30)), make(range(10, 30), prompt=18)
    steps = Steps(TrainingSamples.of([rich, rich, poor]), [[[0]], [[1]], [[2]]])
    lines: list[str] = []
    with trainer_in(tmp_path, steps, said=lines) as trainer:
        trainer.step_log.bar = Bar(trainer._console, None, None, 3, "step")
        trainer.train()
    assert [event["supervised_share"] for event in read_steps(tmp_path / "metrics.jsonl")] == [0.95, 0.95, 0.1]
    marked = [line for line in "".join(lines).splitlines() if "% learned" in line]
    assert len(marked) == 1
    assert "10 % learned (the run: 67 %)" in marked[0]
