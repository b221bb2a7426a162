"""The loss on held-out samples while it trains, the best step so far, and when to stop early."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tanren.common.chat import Sample
from tanren.common.errors import FoundWantingError
from tanren.common.first_fit import first_fit
from tanren.common.interruption import Interruption
from tanren.common.untouched import untouched
from tanren.sft.config import ValidationConfig
from tanren.sft.packing import MicroBatch

LossOf = Callable[[torch.nn.Module, MicroBatch], torch.Tensor]
"""The summed cross entropy of a micro-batch's supervised tokens, as the trainer computes it."""


@dataclass
class ValidationState:
    """What a checkpoint keeps, so that a resumed run decides as an uninterrupted one."""

    last_step: int = -1
    last_loss: float | None = None
    baseline_loss: float | None = None
    """Before step 1."""
    best_step: int | None = None
    """Of the trained steps: step 0 has no checkpoint."""
    best_loss: float | None = None
    without_improvement: int = 0
    """Validations in a row."""


class Validation:
    """Samples that are never trained on, and what their loss was."""

    def __init__(self, samples: Sequence[Sample], config: ValidationConfig, *, budget: int, steps: int) -> None:
        """Pack the samples into micro-batches of at most `budget` tokens; `steps` is the run's last step."""
        self._config, self._steps = config, steps
        self._samples = samples
        self._packed = first_fit([len(sample.input_ids) for sample in samples], budget)
        self.rows = len(samples)
        self.supervised = sum(sample.supervised for sample in samples)
        self.state = ValidationState()

    def take_up(self, values: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.state = ValidationState(**values)

    def due(self, step: int) -> bool:
        """Whether the loss after `step` (0: before the first) is wanted and not known yet."""
        return self.state.last_step < step and (step % self._config.every_steps == 0 or step == self._steps)

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self._config.patience <= self.state.without_improvement

    def run(
        self, model: torch.nn.Module, loss_of: LossOf, step: int, interruption: Interruption
    ) -> dict[str, Any] | None:
        """Return the event to record: the mean cross entropy in nats per supervised token; None if it was interrupted.

        Raises FoundWantingError where the loss is no number.
        """
        begun = time.perf_counter()
        loss = self._mean_loss(model, loss_of, interruption)
        if loss is None:
            return None
        if not math.isfinite(loss):
            raise FoundWantingError(
                f"the validation loss after step {step} is {loss}: training diverged; lower optim.lr, and start again or from "
                "an earlier checkpoint"
            )
        self._note(step, loss)
        told = {name: value for name, value in asdict(self.state).items() if not name.startswith("last_")}
        seconds = time.perf_counter() - begun
        return {
            "step": step,
            "loss": loss,
            "rows": self.rows,
            "supervised_tokens": self.supervised,
            "seconds": seconds,
        } | told

    def verdict(self) -> str:
        """Say what the last loss means."""
        state = self.state
        if state.best_step is None:
            return "before training"
        if state.best_step == state.last_step:
            return "the best so far"
        patience = f" of {self._config.patience}" if self._config.patience else ""
        best = f"best {state.best_loss:.4f} after step {state.best_step}"
        return f"{best}; {state.without_improvement}{patience} in a row without improvement"

    def _mean_loss(self, model: torch.nn.Module, loss_of: LossOf, interruption: Interruption) -> float | None:
        total = 0.0
        with untouched(model), torch.no_grad():
            model.eval()
            for places in self._packed:
                if interruption.status is not None:
                    return None
                total += float(loss_of(model, MicroBatch(tuple(self._samples[place] for place in places))))
        return total / self.supervised

    def _note(self, step: int, loss: float) -> None:
        state = self.state
        state.last_step, state.last_loss = step, loss
        if step == 0:
            state.baseline_loss = loss
        elif state.best_loss is None or loss < state.best_loss - self._config.min_delta:
            state.best_step, state.best_loss, state.without_improvement = step, loss, 0
        else:
            state.without_improvement += 1
