"""What is asked for after each optimizer step: a validation, a checkpoint, the end."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tanren.common.interruption import Interruption
from tanren.sft.config import SftConfig


class RunCallback(TrainerCallback):
    """Asks for what is due every so many steps, and for a checkpoint and the end when a signal asked the run to stop."""

    def __init__(self, config: SftConfig, interruption: Interruption, until: int | None = None) -> None:
        """Remember what to watch; stop after step `until`."""
        self._every = config.checkpoint.every_steps
        self._interruption, self._until = interruption, until

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Decide after each optimizer step."""
        del args, kwargs
        if self._interruption.status is not None or state.global_step == self._until:
            control.should_save = control.should_training_stop = True
        else:
            control.should_evaluate = True  # `SftTrainer.evaluate` knows what is due
            if self._every and state.global_step % self._every == 0 and state.global_step < state.max_steps:
                control.should_save = True
        return control
