"""What is done between two optimizer steps besides training: the validation loss, and a few generated answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tanren.common.console import Console
from tanren.common.interruption import Interruption
from tanren.common.tracking import Tracker
from tanren.sft.config import SftConfig

if TYPE_CHECKING:
    import torch

    from tanren.sft.step_evaluation import StepEvaluation
    from tanren.sft.validation import LossOf, Validation


@dataclass(frozen=True)
class Asked:
    """What follows from it."""

    save: bool
    """Write a checkpoint now."""
    stop: bool
    """This was the last step."""


@dataclass(frozen=True)
class BetweenSteps:
    """Does what is due, and tells the console, the metrics and the tracker."""

    config: SftConfig
    console: Console
    tracker: Tracker
    interruption: Interruption
    validation: Validation | None = None
    step_evaluation: StepEvaluation | None = None

    def due(self, step: int) -> bool:
        """Whether there is anything to do after `step`."""
        return any(one is not None and one.due(step) for one in (self.validation, self.step_evaluation))

    def run(self, model: torch.nn.Module, loss_of: LossOf, step: int) -> Asked:
        """Do what is due after `step` (0: before the first), and what a run that was stopped here left undone."""
        validation, evaluation = self.validation, self.step_evaluation
        is_best = False
        if validation is not None and validation.due(step) and not self._stopped:
            is_best = self._validate(validation, model, loss_of, step)
        if evaluation is not None and evaluation.due(step) and not self._stopped:
            self._evaluate(evaluation, model, step)
        exhausted = validation is not None and validation.exhausted
        return Asked(
            save=self._stopped or (is_best and self.config.checkpoint.keep_best), stop=self._stopped or exhausted
        )

    @property
    def kept(self) -> int | None:
        """The step whose checkpoint is kept however old it is."""
        return self.validation.state.best_step if self.validation and self.config.checkpoint.keep_best else None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "validation": None if self.validation is None else asdict(self.validation.state),
            "evaluated_step": None if self.step_evaluation is None else self.step_evaluation.last_step,
        }

    def take_up(self, values: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        if self.validation is not None:
            self.validation.take_up(values["validation"])
        if self.step_evaluation is not None:
            self.step_evaluation.last_step = values["evaluated_step"]

    @property
    def _stopped(self) -> bool:
        return self.interruption.status is not None

    def _validate(self, validation: Validation, model: torch.nn.Module, loss_of: LossOf, step: int) -> bool:
        with self.console.phase("validate", f"after step {step}, {validation.rows} samples"):
            values = validation.run(model, loss_of, step, self.interruption)
        if values is None:
            return False
        self.console.record("validation", values)
        self.tracker.log_step(step, {"validation_loss": values["loss"]})
        self.console.line(f"validation after step {step}: loss {values['loss']:.4f} ({validation.verdict()})")
        return bool(values["best_step"] == step)

    def _evaluate(self, evaluation: StepEvaluation, model: torch.nn.Module, step: int) -> None:
        values = evaluation.run(model, step)
        self.console.record("evaluation", values)
        known = {name: value for name, value in values.get("measures", {}).items() if value is not None}
        shares_of_all = {name: values[name] for name in ("valid", "correct")}
        self.tracker.log_step(step, {f"step_{name}": value for name, value in (shares_of_all | known).items()})
        shares = ", ".join(f"{values[f'{name}_count']} {name}" for name in ("valid", "correct"))
        self.console.line(f"evaluation after step {step}: of {values['n']} answers {shares}")
