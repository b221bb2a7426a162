"""The trainer: transformers' Trainer with five narrow overrides.

1. `training_step` runs one optimizer step: its micro-batches, packed without padding, one after the other. The loss is
   the mean over the step's supervised tokens, so the packing does not change it.
2. `_get_train_sampler` keeps the order that the plan laid out.
3. `create_scheduler` gives every step, the first too, a learning rate above 0.
4. `_save_checkpoint` writes aside and renames, and deletes old checkpoints by number.
5. `log` writes full-precision numbers to the run's metrics instead of rounded ones to the terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from tanren.common.config import AUTO
from tanren.common.console import Bar, Console
from tanren.common.errors import FoundWantingError
from tanren.common.fused import choose_route
from tanren.common.run import RunDirectory, folder_written_aside
from tanren.sft.config import SftConfig
from tanren.sft.coverage import say_gradients
from tanren.sft.interruption import Interruption
from tanren.sft.loss import packed_loss
from tanren.sft.packing import MicroBatch, Step
from tanren.sft.tracking import Tracker

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


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
        logging_steps=config.train.log_every,
        logging_nan_inf_filter=False,  # a NaN stops the run (training_step), it is not averaged away
        save_strategy="no",  # RunCallback asks for checkpoints
        report_to=[],
        disable_tqdm=True,
        seed=config.seed,
        use_cpu=device == "cpu",
        remove_unused_columns=False,
        dataloader_num_workers=0,
    )


class SftTrainer(Trainer):
    """Trains on a laid-out sequence of steps and reports every one to the run directory."""

    def __init__(
        self,
        *,
        model: PeftModel | PreTrainedModel,
        steps: Sequence[Step],
        config: SftConfig,
        run: RunDirectory,
        console: Console,
        tracker: Tracker,
        interruption: Interruption,
        device: str,
    ) -> None:
        """Prepare to train `model` on `steps`."""
        self._steps, self._config, self._run, self._console, self._tracker = (
            steps,
            config,
            run,
            console,
            tracker,
        )
        self._losses: list[float] = []
        self._clock = time.perf_counter()
        self._save_to = run.checkpoints
        self.bar: Bar | None = None
        self.prepare_model(model, device)
        super().__init__(
            model=model,
            args=training_arguments(config, run, device=device, steps=len(steps)),
            train_dataset=StepDataset(steps),
            data_collator=_collate,
            callbacks=[RunCallback(config, interruption)],
        )
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        del train_dataset
        return SequentialSampler(self._steps)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the schedule of the learning rate (`rate_factor`): unlike the library's, no step is taken at rate 0."""
        optimizer = optimizer or self.optimizer
        assert optimizer is not None, "the optimizer is made first"
        if self.lr_scheduler is None:
            optim = self._config.optim
            warmup = round(optim.warmup_ratio * num_training_steps)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer,
                lambda step: rate_factor(step, num_training_steps, warmup, optim.schedule),
            )
        return self.lr_scheduler

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: a step holds no single batch to estimate from, and nothing here reads the figure."""
        del inputs
        return 0

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Run the micro-batches of one optimizer step; return the mean loss over the step's supervised tokens."""
        del num_items_in_batch
        model.train()
        step: Step = inputs["step"]
        total = torch.zeros((), device=self.args.device)
        for index, micro_batch in enumerate(step.micro_batches, start=1):
            loss = self.micro_batch_loss(model, micro_batch) / step.supervised
            self.accelerator.backward(loss)
            total += loss.detach().float()
            if self.bar is not None:
                self.bar.advance(self.state.global_step + index / len(step.micro_batches))
        if not math.isfinite(float(total)):
            raise FoundWantingError(
                f"the loss of step {self.state.global_step + 1} is {float(total)}: training diverged; lower optim.lr "
                f"({self._config.optim.lr}) or raise optim.warmup_ratio, and start again or from an earlier checkpoint"
            )
        if self.state.global_step == 0:
            say_gradients(self.tensors_with_gradients(model), self._console)
        self._losses.append(float(total))
        return total

    def prepare_model(self, model: PeftModel | PreTrainedModel, device: str) -> None:
        """Choose how the model is computed, keeping as little for the backward pass as the recipe says, and say it."""
        train = self._config.train
        assert train.gradient_checkpointing != AUTO, "the plan chooses before there is a model"
        # With deterministic algorithms torch would fill every new tensor first, a pass over memory for each; nothing is read unwritten.
        torch.utils.deterministic.fill_uninitialized_memory = False
        self._console.line(choose_route(model, train.layers, train.gradient_checkpointing, device).line())

    def micro_batch_loss(self, model: torch.nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the summed cross entropy of a micro-batch's supervised tokens."""
        return packed_loss(model, micro_batch, self.args.device)

    def tensors_with_gradients(self, model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        """Return what is trained, by name."""
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record the steps since the last logged one, in full precision."""
        del start_time
        if "loss" not in logs or not self._losses:  # the Trainer's closing summary: the run writes its own
            return
        done = self.state.global_step
        steps = self._steps[done - len(self._losses) : done]
        seconds = time.perf_counter() - self._clock
        tokens = sum(step.tokens for step in steps)
        values = {
            "step": done,
            "loss": sum(self._losses) / len(self._losses),
            "grad_norm": float(logs["grad_norm"]),
            "lr": float(logs["learning_rate"]),
            "tokens": tokens,
            "supervised_tokens": sum(step.supervised for step in steps),
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
        }
        self._losses = []
        self._console.record("step", values)
        self._tracker.log_step(done, values)
        if self.bar is not None:
            left = (len(self._steps) - done) * seconds / len(steps)
            facts = f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {values['tokens_per_second']:.0f} tokens/s"
            self.bar.report(done, f"{facts}  {left:.0f} s left")
        self.start_clock()

    def start_clock(self) -> None:
        """Begin to time the next step now."""
        self._clock = time.perf_counter()

    def _get_output_dir(self, trial: Any) -> str:
        del trial
        return str(self._save_to)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        step = self.state.global_step
        with (
            self._console.phase("save checkpoint", f"step {step}"),
            folder_written_aside(self._run.checkpoint(step)) as self._save_to,
        ):
            super()._save_checkpoint(model, trial)
            inner = self._save_to / f"checkpoint-{step}"  # the Trainer's own name for it
            for path in inner.iterdir():
                path.rename(self._save_to / path.name)
            inner.rmdir()
        self._run.keep_checkpoints(self._config.checkpoint.keep)
        self.start_clock()


class RunCallback(TrainerCallback):
    """Asks for checkpoints: every so many steps, and when a signal asked the run to stop."""

    def __init__(self, config: SftConfig, interruption: Interruption) -> None:
        """Remember what to watch."""
        self._every, self._interruption = config.checkpoint.every_steps, interruption

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Decide after each optimizer step."""
        del args, kwargs
        if self._interruption.exit_code is not None:
            control.should_save = control.should_training_stop = True
        elif self._every and state.global_step % self._every == 0 and state.global_step < state.max_steps:
            control.should_save = True
        if control.should_training_stop or state.global_step == state.max_steps:
            control.should_log = True  # the steps since the last logged one
        return control


def rate_factor(step: int, steps: int, warmup: int, schedule: str) -> float:
    """Return the share of the peak learning rate in optimizer step `step` (from 0) of `steps`, `warmup` of them rising."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1.0 - progress if schedule == "linear" else 1.0


def _collate(items: list[Step]) -> dict[str, Any]:
    (step,) = items
    return {"step": step}
