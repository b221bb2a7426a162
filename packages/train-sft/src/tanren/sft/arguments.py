"""What transformers' Trainer is told, and how it is handed whole optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset
from transformers import TrainingArguments

from tanren.common.optimizer import EIGHT_BIT
from tanren.common.run import RunDirectory
from tanren.sft.config import SftConfig
from tanren.sft.packing import Step


class StepDataset(Dataset[Step]):
    """One item per optimizer step."""

    def __init__(self, steps: Sequence[Step]) -> None:
        """Hold the steps."""
        self._steps = steps

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._steps)

    def __getitem__(self, index: int) -> Step:
        """Return one step."""
        return self._steps[index]


def training_arguments(config: SftConfig, run: RunDirectory, *, device: str, steps: int) -> TrainingArguments:
    """Return the Trainer's arguments: what it does itself is the optimizer, the schedule and the random state."""
    optim = config.optim
    return TrainingArguments(
        output_dir=str(run.checkpoints),
        per_device_train_batch_size=1,  # one item is one whole optimizer step
        max_steps=steps,
        learning_rate=optim.lr,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        max_grad_norm=optim.max_grad_norm,
        logging_strategy="no",  # StepLog reports
        logging_nan_inf_filter=False,  # a NaN stops the run (training_step), it is not averaged away
        save_strategy="no",  # RunCallback asks for checkpoints
        eval_on_start=True,  # `SftTrainer.evaluate` knows what is due
        optim=optim.name if optim.name in EIGHT_BIT else TrainingArguments.default_optim,
        report_to=[],
        disable_tqdm=True,
        seed=config.seed,
        use_cpu=device == "cpu",
        remove_unused_columns=False,
        dataloader_num_workers=0,
    )


def collate(items: list[Step]) -> dict[str, Any]:
    """Return the one item of a batch."""
    (step,) = items
    return {"step": step}
