"""A run that goes wrong stops before it is written into the weights, and keeps the batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from tanren.common.chat import Sample
from tanren.common.errors import FoundWantingError
from tanren.common.run import RunDirectory, read_steps
from tanren.sft.config import TrainConfig
from tanren.sft.guard import Guard, GuardState
from tanren.sft.packing import Steps, lay_out
from tanren.sft.store import TrainingSamples
from tanren.sft.trainer import SftTrainer

pytestmark = pytest.mark.usefixtures("one_thread")
MakeSample = Callable[..., Sample]
MakeTrainer = Callable[..., AbstractContextManager[SftTrainer]]


@pytest.fixture
def steps(make: MakeSample) -> Steps:
    samples = [make([10 + index, 20, 30 + index, 40], row_id=f"rows.jsonl:{index + 1}") for index in range(6)]
    return lay_out(samples, rows=18, rows_per_step=3, budget=8, seed=1)


def _dump(folder: Path, step: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    head, *samples = map(json.loads, (folder / "dump" / f"step-{step}.jsonl").read_text(encoding="utf-8").splitlines())
    return head, samples


def _weights(trainer: SftTrainer) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in trainer._own_model.parameters()])


@pytest.mark.usefixtures("reading")
def test_a_loss_that_is_no_number_stops_before_the_update_and_names_the_row(
    tmp_path: Path, steps: Steps, make: MakeSample, trainer_in: MakeTrainer
) -> None:
    bad = make([10, 200, 30], row_id="rows.jsonl:99")  # token 200 has a weight that is no number
    samples = [*steps[0].micro_batches[0].samples, bad]
    with trainer_in(tmp_path, Steps(TrainingSamples.of(samples), [[list(range(len(samples)))]])) as trainer:
        model: Any = trainer._own_model
        with torch.no_grad():
            model.get_input_embeddings().weight[200] = float("nan")
            model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape))  # no longer tied to them
        before = _weights(trainer)
        with pytest.raises(FoundWantingError) as caught:
            trainer.train()
        torch.testing.assert_close(_weights(trainer), before, rtol=0, atol=0, equal_nan=True)
    told = str(caught.value)
    assert "step 1: the loss is nan; the weights are as before this step" in told
    assert "The largest loss has row rows.jsonl:99: nan on 2 learned tokens" in told
    assert f"{tmp_path}/dump/step-1.jsonl" in told
    head, dumped = _dump(tmp_path, 1)
    assert (head["kind"], head["step"], head["lr"]) == ("step", 1, 0.01)
    assert [sample["row"] for sample in dumped] == [sample.row_id for sample in samples]
    assert dumped[-1]["input_ids"] == [10, 200, 30]
    assert dumped[-1]["loss_mask"] == [0, 1, 1]
    assert 0 < dumped[0]["loss"] < 50
    assert isinstance(dumped[0]["text"], str)


@pytest.mark.usefixtures("reading")
def test_a_rate_that_is_absurd_ends_in_a_stop_that_blames_the_weights(
    tmp_path: Path, steps: Steps, trainer_in: MakeTrainer
) -> None:
    optim = {"lr": 1e38, "warmup_ratio": 0, "schedule": "constant"}
    with (
        trainer_in(tmp_path, steps, optim=optim, checkpoint={"every_steps": 1}) as trainer,
        pytest.raises(FoundWantingError, match=r"Every row's loss is nan: the weights are at fault, not a row"),
    ):
        trainer.train()
    logged = read_steps(tmp_path / "metrics.jsonl")
    assert len(logged) < 6
    assert all(step["loss"] == step["loss"] for step in logged)


@pytest.mark.usefixtures("reading")
def test_a_gradient_that_is_no_number_stops_before_the_update(
    tmp_path: Path, steps: Steps, trainer_in: MakeTrainer
) -> None:
    with trainer_in(tmp_path, steps) as trainer:
        model: Any = trainer._own_model
        # A real overflow: the backward pass alone multiplies by 1e38 twice.
        model.lm_head.register_full_backward_hook(
            lambda _, inputs, outputs: tuple(None if one is None else one * 1e38 * 1e38 for one in inputs)
        )
        before = _weights(trainer)
        with pytest.raises(FoundWantingError, match=r"step 1: the gradient's norm is (inf|nan)"):
            trainer.train()
        assert torch.equal(_weights(trainer), before)
    head, dumped = _dump(tmp_path, 1)
    assert head["grad_norm"] != pytest.approx(0)
    assert len(dumped) == 3


def _faults(losses: list[float], **settings: Any) -> list[int]:
    """Return the steps (from 1) after which it stops."""
    guard = Guard(RunDirectory(Path()), TrainConfig.model_validate(settings), str)
    return [step for step, loss in enumerate(losses, start=1) if guard.fault_of_loss(loss)]


def test_a_loss_far_above_its_running_median_stops_after_patience() -> None:
    calm = [2.0, 1.5, 1.2] * 5
    settings = {"spike_factor": 3.0, "spike_patience": 2}
    assert _faults([*calm, 9.0, 9.0, 1.0], **settings) == [17]
    assert _faults([*calm, 9.0, 1.0, 9.0, 1.0], **settings) == []  # never two in a row
    assert _faults([*calm, 4.4, 4.4], **settings) == []  # below 3 x 1.5
    assert _faults([2.0, 2.0, 90.0, 90.0, 90.0], **settings) == []  # no median yet
    assert _faults([*calm, 90.0, 90.0], spike_factor=0) == []


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("after", [0, 2])
def test_a_spike_in_training_stops_with_its_batch_and_without_its_update(
    tmp_path: Path, make: MakeSample, trainer_in: MakeTrainer, after: int
) -> None:
    learned, other = make([10, 20, 30, 40], row_id="same"), make([99, 98, 97, 96], row_id="strange")
    samples = TrainingSamples.of([learned, other])
    weights = []
    for name, end in (("calm", 0), ("spike", 1)):
        (tmp_path / name).mkdir()
        steps = Steps(samples, [[[0]]] * 14 + ([[[0, 1]]] + [[[0]]] * after) * end)
        with trainer_in(tmp_path / name, steps, train={"spike_factor": 3.0, "spike_patience": 1}) as trainer:
            if end:
                with pytest.raises(FoundWantingError, match=r"step 15: the loss is .*The largest loss has row strange"):
                    trainer.train()
            else:
                trainer.train()
            weights.append(_weights(trainer))
    assert len(read_steps(tmp_path / "spike" / "metrics.jsonl")) == 14
    assert torch.equal(*weights)


def test_a_checkpoint_keeps_what_the_guard_remembers(tmp_path: Path, steps: Steps, trainer_in: MakeTrainer) -> None:
    with trainer_in(tmp_path, steps, until=3) as trainer:
        trainer.train()
        kept = trainer._guard.state
    with trainer_in(tmp_path, steps) as trainer:
        trainer.take_up(RunDirectory(tmp_path).checkpoint(3))
        assert (
            trainer._guard.state
            == kept
            == GuardState([step["loss"] for step in read_steps(tmp_path / "metrics.jsonl")])
        )
