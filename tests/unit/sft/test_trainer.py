"""The trainer on a laid-out run: what it logs, what it saves, and that it learns."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tanren.common.attention.packed import registered_name
from tanren.common.chat import Sample
from tanren.common.console import Console
from tanren.common.errors import ExitCode
from tanren.common.models.tiny import tiny_model
from tanren.common.run import MetricsWriter, RunDirectory, read_steps
from tanren.sft.config import SftConfig
from tanren.sft.interruption import Interruption
from tanren.sft.loss import packed_loss
from tanren.sft.packing import MicroBatch, Step, Steps, lay_out
from tanren.sft.tracking import NoTracker
from tanren.sft.trainer import SftTrainer

pytestmark = pytest.mark.usefixtures("one_thread")
MakeSample = Callable[..., Sample]


@pytest.fixture
def steps(make: MakeSample) -> Steps:
    samples = [make([10 + index, 20, 30 + index, 40], row_id=str(index)) for index in range(6)]
    return lay_out(samples, rows=12, rows_per_step=3, budget=8, seed=1)


@contextmanager
def _trainer(
    folder: Path, steps: list[Step], interruption: Interruption | None = None, **settings: Any
) -> Iterator[SftTrainer]:
    model = tiny_model("tiny-qwen3", torch.float32)
    model.set_attn_implementation(registered_name("sdpa"))
    console = Console(stream=io.StringIO())
    run = RunDirectory(folder)
    metrics = MetricsWriter(run.metrics)
    console.attach(metrics)
    yield SftTrainer(
        model=model,
        steps=steps,
        config=SftConfig.model_validate({"optim": {"lr": 0.01, "warmup_ratio": 0, "schedule": "constant"}} | settings),
        run=run,
        console=console,
        tracker=NoTracker(),
        interruption=interruption or Interruption(),
        device="cpu",
    )
    metrics.close()


def test_each_step_is_logged_with_the_mean_loss_over_its_learned_tokens(tmp_path: Path, steps: list[Step]) -> None:
    samples = [sample for micro_batch in steps[0].micro_batches for sample in micro_batch.samples]
    with _trainer(tmp_path, steps) as trainer:
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


def test_training_without_clipping_logs_its_gradient_norm_too(tmp_path: Path, steps: list[Step]) -> None:
    for name, clip in (("clipped", 1e9), ("free", 0)):
        (tmp_path / name).mkdir()
        with _trainer(tmp_path / name, steps, optim={"lr": 0.01, "max_grad_norm": clip}) as trainer:
            trainer.train()
    clipped, free = (read_steps(tmp_path / name / "metrics.jsonl") for name in ("clipped", "free"))
    assert [event["loss"] for event in free] == [event["loss"] for event in clipped]
    assert [event["grad_norm"] for event in free] == pytest.approx([event["grad_norm"] for event in clipped])


def test_checkpoints_are_written_whole_and_the_newest_kept(tmp_path: Path, steps: list[Step]) -> None:
    with _trainer(tmp_path, steps, checkpoint={"every_steps": 1, "keep": 2}) as trainer:
        trainer.train()
    run = RunDirectory(tmp_path)
    assert run.checkpoint_steps() == [2, 3]
    assert {path.name for path in run.checkpoints.iterdir()} == {"step-2", "step-3"}
    assert (run.checkpoint(3) / "optimizer.pt").is_file()


def test_a_run_that_is_interrupted_and_resumed_ends_with_the_same_losses(tmp_path: Path, steps: list[Step]) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    with _trainer(tmp_path / "whole", steps) as trainer:
        trainer.train()
    with _trainer(tmp_path / "parts", steps, Interruption(ExitCode.PREEMPTED)) as trainer:
        trainer.train()
        assert trainer.state.global_step == 1
    with _trainer(tmp_path / "parts", steps) as trainer:
        trainer.train(resume_from_checkpoint=str(RunDirectory(tmp_path / "parts").checkpoint(1)))
    whole, parts = (read_steps(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [event["step"] for event in parts] == [1, 2, 3, 4]
    assert [event["loss"] for event in parts] == [event["loss"] for event in whole]


def test_several_steps_between_two_logs_are_averaged(tmp_path: Path, steps: list[Step]) -> None:
    for name, every in (("each", 1), ("both", 2)):
        (tmp_path / name).mkdir()
        with _trainer(tmp_path / name, steps, train={"log_every": every}) as trainer:
            trainer.train()
    each, both = (read_steps(tmp_path / name / "metrics.jsonl") for name in ("each", "both"))
    losses = [event["loss"] for event in each]
    assert [event["loss"] for event in both] == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:]) / 2])
    assert [event["tokens"] for event in both] == [24, 24]
