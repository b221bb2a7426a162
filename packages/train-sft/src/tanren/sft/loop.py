"""The training loop of a run: put together from its parts, and run from its beginning or from a checkpoint."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tanren.common.config import AUTO
from tanren.common.console import Console
from tanren.common.run import RunDirectory
from tanren.sft.memory import Settled, measured_memory
from tanren.sft.trainer import SftTrainer
from tanren.sft.validation import Validation

if TYPE_CHECKING:
    from tanren.common.chat import Sample
    from tanren.common.interruption import Interruption
    from tanren.common.tracking import Tracker
    from tanren.sft.plan import Plan
    from tanren.sft.prepare import Prepared
    from tanren.sft.step_evaluation import StepEvaluation


def make_trainer(
    trainer_class: type[SftTrainer],
    plan: Plan,
    prepared: Prepared,
    model: Any,
    run: RunDirectory,
    console: Console,
    tracker: Tracker,
    interruption: Interruption,
    *,
    packs: bool,
    step_evaluation: StepEvaluation | None = None,
    until: int | None = None,
) -> SftTrainer:
    """Lay the run out from its seed and return its trainer; `packs` says whether samples may share a pass."""
    config = plan.config
    assert config.train.micro_batch_tokens != AUTO, "the plan chooses before there is a model"
    budget = config.train.micro_batch_tokens if packs else 1
    steps = plan.lay_out(prepared.samples, budget)
    return trainer_class(
        model=model,
        tokenizer=prepared.tokenizer,
        steps=steps,
        config=config,
        run=run,
        console=console,
        tracker=tracker,
        interruption=interruption,
        device=prepared.device.device,
        validation=_validation(prepared.validation, plan, budget, len(steps)),
        step_evaluation=step_evaluation,
        until=until,
    )


def _validation(samples: Sequence[Sample], plan: Plan, budget: int, steps: int) -> Validation | None:
    return Validation(samples, plan.config.validation, budget=budget, steps=steps) if len(samples) else None


@contextmanager
def what_is_there_not_collected() -> Iterator[None]:
    """Leave what is in memory now out of garbage collections: each walked through the whole model, 0.15 s while a GPU waited."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def train(
    trainer: SftTrainer, settled: Settled, console: Console, checkpoint: Path | None = None, *, probe: bool = True
) -> Mapping[str, Any]:
    """Train from the beginning or from a checkpoint; return the memory that was planned beside what was used."""
    steps, done = trainer.args.max_steps, 0
    if checkpoint is not None:
        done = int(checkpoint.name.rpartition("-")[2])
        console.record("resume", {"step": done})
        console.line(f"resuming after step {done} of {steps}")
        trainer.take_up(checkpoint)
    torch.use_deterministic_algorithms(True)
    try:
        with measured_memory(settled, console) as memory:
            if probe and done < steps:
                with console.phase("probe"):
                    trainer.probe(done)
            with (
                console.phase("train", f"{steps} steps"),
                console.bar("train", steps, "step") as trainer.step_log.bar,
                what_is_there_not_collected(),
            ):
                trainer.step_log.start_clock()
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        torch.use_deterministic_algorithms(False)
    return memory


def finish_validation(trainer: SftTrainer, run: RunDirectory, console: Console) -> dict[str, Any]:
    """Say which step was best and why training ended; give the model that step's weights back if asked to.

    Returns what `summary.json` records: the losses, the best step, why it stopped, and whose weights were kept.
    """
    validation = trainer.between.validation
    if validation is None:
        return {}
    state, done = validation.state, trainer.state.global_step
    stopped = "no step was left" if done == trainer.args.max_steps else "validation.patience"
    if stopped == "validation.patience":
        console.line(f"stopped early after step {done}: {validation.verdict()}")
    if state.best_loss is not None and state.baseline_loss is not None and state.best_loss >= state.baseline_loss:
        console.warn(f"no step was better than the untrained model, whose validation loss is {state.baseline_loss:.4f}")
    kept = done
    if trainer.config.validation.restore_best and state.best_step not in (None, done):
        kept = int(state.best_step or 0)
        trainer.restore(run.checkpoint(kept))
        console.line(f"the weights of step {kept} are taken, the best by validation loss: {state.best_loss:.4f}")
    return asdict(state) | {"stopped_by": stopped, "weights_of_step": kept}
