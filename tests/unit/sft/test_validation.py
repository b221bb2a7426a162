"""The validation loss, the best step, and stopping early."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tanren.common.attention.packed import registered_name
from tanren.common.chat import Sample
from tanren.common.errors import FoundWantingError
from tanren.common.interruption import Interruption
from tanren.common.models.tiny import tiny_model
from tanren.common.run import RunDirectory, read_steps, read_validations
from tanren.sft.config import ValidationConfig
from tanren.sft.loop import finish_validation
from tanren.sft.loss import packed_loss
from tanren.sft.packing import MicroBatch, Steps, lay_out
from tanren.sft.trainer import SftTrainer
from tanren.sft.validation import Validation

pytestmark = pytest.mark.usefixtures("one_thread")
MakeSample = Callable[..., Sample]
MakeTrainer = Callable[..., AbstractContextManager[SftTrainer]]


def _loss(model: torch.nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
    return packed_loss(model, micro_batch, "cpu")


@pytest.fixture
def heldout(make: MakeSample) -> list[Sample]:
    return [make(range(40, 45 + 4 * index), prompt=1 + index, row_id=f"h{index}") for index in range(6)]


@pytest.fixture
def steps(make: MakeSample) -> Steps:
    samples = [make([10 + index, 20, 30 + index, 40], row_id=str(index)) for index in range(6)]
    return lay_out(samples, rows=24, rows_per_step=3, budget=8, seed=1)


def _validation(samples: list[Sample], budget: int = 64, **settings: Any) -> Validation:
    return Validation(samples, ValidationConfig.model_validate({"every_steps": 2} | settings), budget=budget, steps=8)


def _events(folder: Path) -> list[dict[str, Any]]:
    timed = ("time", "seconds")
    return [{k: v for k, v in event.items() if k not in timed} for event in read_validations(folder / "metrics.jsonl")]


@pytest.mark.parametrize("budget", [1, 30, 1000])
def test_it_is_the_mean_over_learned_tokens_however_packed_and_leaves_the_model_as_it_was(
    heldout: list[Sample], budget: int
) -> None:
    model = tiny_model("tiny-qwen3", torch.float32).train()
    model.set_attn_implementation(registered_name("sdpa"))
    before = torch.get_rng_state()
    event = _validation(heldout, budget).run(model, _loss, 0, Interruption())
    assert event is not None
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())

    plain = tiny_model("tiny-qwen3", torch.float64).eval()
    plain.set_attn_implementation("sdpa")
    total, count = 0.0, 0
    for sample in heldout:
        ids = torch.tensor([sample.input_ids])
        labels = ids[0, 1:].masked_fill(~torch.tensor(sample.loss_mask[1:]), -100)
        with torch.no_grad():
            logits = plain(input_ids=ids).logits[0, :-1]
        total += cross_entropy(logits.double(), labels, ignore_index=-100, reduction="sum").item()
        count += int((labels != -100).sum())
    assert event["loss"] == pytest.approx(total / count, rel=1e-5)
    assert (event["rows"], event["supervised_tokens"]) == (6, count)


def test_it_comes_before_step_1_every_so_many_steps_and_at_the_end(
    tmp_path: Path, steps: Steps, heldout: list[Sample], trainer_in: MakeTrainer
) -> None:
    losses = {}
    for name, samples in (("with", heldout), ("without", [])):
        (tmp_path / name).mkdir()
        with trainer_in(tmp_path / name, steps, validated=samples, validation={"every_steps": 3}) as trainer:
            trainer.train()
        losses[name] = [event["loss"] for event in read_steps(tmp_path / name / "metrics.jsonl")]
    assert [event["step"] for event in _events(tmp_path / "with")] == [0, 3, 6, 8]
    assert losses["with"] == losses["without"]  # bit for bit: training does not notice


def test_it_stops_when_patience_is_at_its_end_and_takes_the_best_weights(
    tmp_path: Path, steps: Steps, heldout: list[Sample], trainer_in: MakeTrainer
) -> None:
    # What is learned has nothing to do with what is held out, so its loss rises.
    said: list[str] = []
    settings = {
        "validation": {"every_steps": 1, "patience": 2, "restore_best": True},
        "checkpoint": {"every_steps": 1, "keep": 1, "keep_best": True},
    }
    with trainer_in(tmp_path, steps, validated=heldout, said=said, **settings) as trainer:
        trainer.train()
        run = RunDirectory(tmp_path)
        summary = finish_validation(trainer, run, trainer._console)
        losses = [event["loss"] for event in _events(tmp_path)]
        done = trainer.state.global_step
        best = 1 + min(range(done), key=lambda step: losses[step + 1])
        assert done == best + 2 < 8
        assert set(run.checkpoint_steps()) == {best, done}  # the best is kept beside the newest
        assert (summary["best_step"], summary["weights_of_step"], summary["stopped_by"]) == (
            best,
            best,
            "validation.patience",
        )
        assert summary["best_loss"] == losses[best]
        assert trainer.between.validation is not None
        again = trainer.between.validation.run(trainer._own_model, _loss, 99, Interruption())
        assert again is not None
        assert again["loss"] == losses[best]
    told = "".join(said)
    assert f"stopped early after step {done}: best {losses[best]:.4f} after step {best}; 2 of 2 in a row" in told
    assert f"the weights of step {best} are taken" in told
    if losses[best] >= losses[0]:
        assert "no step was better than the untrained model" in told


@pytest.mark.parametrize("stop", [2, 3])
def test_a_resumed_run_validates_and_stops_as_a_straight_one(
    tmp_path: Path, steps: Steps, heldout: list[Sample], trainer_in: MakeTrainer, stop: int
) -> None:
    # At step 2 a validation is due, and a run that is asked to stop there leaves it to the resumed one.
    validation = {"every_steps": 2, "patience": 2, "min_delta": 0.01}
    for name in ("straight", "parts"):
        (tmp_path / name).mkdir()
        until = stop if name == "parts" else None
        with trainer_in(tmp_path / name, steps, validated=heldout, validation=validation, until=until) as trainer:
            trainer.train()
    checkpoint = RunDirectory(tmp_path / "parts").checkpoint(stop)
    state = json.loads((checkpoint / "loop.json").read_text(encoding="utf-8"))
    assert state["between"]["validation"]["last_step"] == (0 if stop == 2 else 2)
    with trainer_in(tmp_path / "parts", steps, validated=heldout, validation=validation) as trainer:
        trainer.take_up(checkpoint)
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert _events(tmp_path / "parts") == _events(tmp_path / "straight")
    straight, parts = (read_steps(tmp_path / name / "metrics.jsonl") for name in ("straight", "parts"))
    assert [event["loss"] for event in parts] == [event["loss"] for event in straight]
    assert len(straight) < 8


def test_a_run_that_was_stopped_at_the_end_of_its_patience_takes_no_further_step(
    tmp_path: Path, steps: Steps, heldout: list[Sample], trainer_in: MakeTrainer
) -> None:
    settings = {"validation": {"every_steps": 1, "patience": 1}, "checkpoint": {"every_steps": 1}}
    with trainer_in(tmp_path, steps, validated=heldout, **settings) as trainer:
        trainer.train()
    done = trainer.state.global_step
    checkpoint = RunDirectory(tmp_path).checkpoint(done)
    with trainer_in(tmp_path, steps, validated=heldout, **settings) as trainer:
        trainer.take_up(checkpoint)
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.state.global_step == done < 8


def test_an_improvement_is_more_than_min_delta(heldout: list[Sample]) -> None:
    validation = _validation(heldout, patience=2, min_delta=0.1)
    for step, loss in ((0, 3.0), (2, 2.0), (4, 1.95), (6, 1.85)):
        validation._note(step, loss)
    assert (validation.state.best_step, validation.state.without_improvement) == (6, 0)
    validation._note(7, 1.80)
    assert validation.verdict() == "best 1.8500 after step 6; 1 of 2 in a row without improvement"
    assert not validation.exhausted
    validation._note(8, 1.76)
    assert validation.exhausted


def test_a_validation_loss_that_is_no_number_ends_the_run(heldout: list[Sample]) -> None:
    model: Any = tiny_model("tiny-qwen3", torch.float32)
    model.set_attn_implementation(registered_name("sdpa"))
    with torch.no_grad():
        model.get_input_embeddings().weight[40] = float("inf")
    with pytest.raises(FoundWantingError, match="the validation loss after step 2 is nan"):
        _validation(heldout).run(model, _loss, 2, Interruption())


def test_a_signal_in_the_middle_leaves_the_validation_to_the_resumed_run(heldout: list[Sample]) -> None:
    model = tiny_model("tiny-qwen3", torch.float32)
    validation = _validation(heldout)
    assert validation.run(model, _loss, 2, Interruption("preempted")) is None
    assert validation.due(2)
