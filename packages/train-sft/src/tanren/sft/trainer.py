"""The trainer: transformers' Trainer with narrow overrides.

1. `training_step` runs one optimizer step: its micro-batches, packed without padding, one after the other. The loss is
   the mean over the step's supervised tokens, so the packing does not change it.
2. `_get_train_sampler` keeps the order that the plan laid out.
3. `create_scheduler` gives every step, the first too, a learning rate above 0; `get_decay_parameter_names` names matrices.
4. `_get_grad_norm` stands between the backward pass and the optimizer: what is no number is not written into the weights.
   A GPU leaves out such an update by itself, so that the host need not wait for it: it reads the figures while the next
   step runs, and stops the run then.
5. `evaluate` does what is due after a step: the validation loss, a few generated answers; `_run_epoch` heeds its stop, and
   gives the loop a list of weights to empty instead of the model (`Listed`).
6. `_save_checkpoint` writes aside and renames, keeps what the loop itself remembers, and deletes old checkpoints by number.
7. `log` says nothing: steps are reported by the run's own log (`StepLog`), in full precision.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer

from tanren.common.chat import Sample
from tanren.common.config import AUTO
from tanren.common.console import Console
from tanren.common.coverage import say_gradients
from tanren.common.experts import choose_experts
from tanren.common.fused import choose_route
from tanren.common.interruption import Interruption
from tanren.common.optimizer import decayed_names
from tanren.common.run import RunDirectory, folder_written_aside
from tanren.common.schedule import rate_factor
from tanren.common.tracking import Tracker
from tanren.common.untouched import untouched
from tanren.sft.arguments import StepDataset, collate, training_arguments
from tanren.sft.between import BetweenSteps
from tanren.sft.callbacks import RunCallback
from tanren.sft.config import SftConfig
from tanren.sft.guard import Guard
from tanren.sft.listed import Listed
from tanren.sft.loss import packed_loss
from tanren.sft.noise import EmbeddingNoise
from tanren.sft.packing import MicroBatch, Step, Steps
from tanren.sft.reading import Reading, hold_back
from tanren.sft.step_log import StepLog

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tanren.sft.step_evaluation import StepEvaluation
    from tanren.sft.validation import Validation

LOOP = "loop.json"
"""In a checkpoint: what the library's state has no place for."""


class SftTrainer(Trainer):
    """Trains on a laid-out sequence of steps and reports every one to the run directory."""

    def __init__(
        self,
        *,
        model: PeftModel | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        steps: Steps,
        config: SftConfig,
        run: RunDirectory,
        console: Console,
        tracker: Tracker,
        interruption: Interruption,
        device: str,
        validation: Validation | None = None,
        step_evaluation: StepEvaluation | None = None,
        until: int | None = None,
    ) -> None:
        """Prepare to train `model` on `steps`; with `until`, only up to a checkpoint after that one."""
        self._steps, self.config, self._run, self._console, self._tracker = steps, config, run, console, tracker
        self.between = BetweenSteps(config, console, tracker, interruption, validation, step_evaluation)
        self._guard = Guard(run, config.train, lambda ids: str(tokenizer.decode(list(ids))))
        self._noise = EmbeddingNoise(model, config.train.neftune_alpha) if config.train.neftune_alpha else None
        self.step_log = StepLog(steps, config.train.log_every, console, tracker, device)
        self._trained: list[torch.nn.Parameter] = []
        self._loss = torch.zeros(())
        """Of the present step, on the device."""
        self._step: Step | None = None
        self._reading: Reading | None = None
        """Of a step whose figures are still to be read."""
        self._save_to = run.checkpoints
        self.prepare_model(model, device)
        super().__init__(
            model=model,
            args=training_arguments(config, run, device=device, steps=len(steps)),
            train_dataset=StepDataset(steps),
            data_collator=collate,
            callbacks=[RunCallback(config, interruption, until)],
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
            optim = self.config.optim
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: rate_factor(step, num_training_steps, optim)
            )
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Return the weights that decay (`decayed_names`)."""
        return decayed_names(model)

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
        del model, num_items_in_batch
        model = self._own_model
        if not model.training:  # it walks through thousands of modules
            model.train()
        step: Step = inputs["step"]
        total = torch.zeros((), device=self.args.device)
        first = self._step is None  # of this process: what it compiles takes its time, so each pass is told
        self._step = step
        supervised = step.supervised
        for index, micro_batch in enumerate(step.micro_batches, start=1):
            begun = time.perf_counter()
            total += self._backward(model, micro_batch, supervised)
            if first:
                self._synchronise()
                told = f"{micro_batch.tokens} tokens, {time.perf_counter() - begun:.1f} s"
                count = len(step.micro_batches)
                self._console.line(f"step {self.state.global_step + 1}: micro-batch {index} of {count}, {told}")
            if index == 1:  # the GPU has work now: the step before can be read and reported
                self._settle()
                self.step_log.report()
            if self.step_log.bar is not None:
                self.step_log.bar.advance(self.state.global_step + index / len(step.micro_batches))
        if self.state.global_step == 0:
            say_gradients(self.tensors_with_gradients(model), self._console)
        self._loss = total
        return total

    def probe(self, done: int) -> None:
        """Time the largest pass after step `done` and say when the run will be finished; nothing is changed by it."""
        model = self._own_model

        def run_pass(micro_batch: MicroBatch) -> None:
            self._backward(model, micro_batch, micro_batch.tokens)
            self._synchronise()
            model.zero_grad()

        with untouched(model):
            model.train()
            self.step_log.pace.probe(done, run_pass, self._console, twice=self.args.device.type == "cuda")

    def _backward(self, model: torch.nn.Module, micro_batch: MicroBatch, supervised: int) -> torch.Tensor:
        """Add a micro-batch's share of the step's gradient; return its share of the loss, detached."""
        lengths = [len(sample.input_ids) for sample in micro_batch.samples]
        with nullcontext() if self._noise is None else self._noise.on(lengths):
            loss = self.micro_batch_loss(model, micro_batch) / supervised
            self.accelerator.backward(loss)
        return loss.detach().float()

    @property
    def _own_model(self) -> torch.nn.Module:
        assert isinstance(self.model, torch.nn.Module), "the library lets it be absent; here it is given"
        return self.model

    def _synchronise(self) -> None:
        if self.args.device.type == "cuda":
            torch.cuda.synchronize()

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        """Clip what is trained: asked for all its parameters, a model walks through thousands of modules while the GPU waits."""
        return self._clipped(model, self.args.max_grad_norm)

    def _clipped(self, model: torch.nn.Module, norm: float) -> Any:
        if not self._trained:
            self._trained = list(self.tensors_with_gradients(model).values())
        return self.accelerator.clip_grad_norm_(self._trained, norm)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Take loss and norm together, before the optimizer uses the gradients; read them now, or while a GPU goes on."""
        if grad_norm is None:  # no clipping was asked for
            grad_norm = self._clipped(model, math.inf)
        found, step = torch.as_tensor(grad_norm).to(self._loss), self._step
        assert step is not None
        number, optimizer = self.state.global_step + 1, self._torch_optimizer
        if self._reads_late(optimizer):
            hold_back(optimizer, self._loss, found, self._guard.limit())
            self._reading = Reading.take(step, number, self._get_learning_rate(), self._loss, found)
        else:
            self._reading = Reading.take(step, number, self._get_learning_rate(), self._loss, found)
            self._settle()
        return found

    @property
    def _torch_optimizer(self) -> torch.optim.Optimizer:
        made = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        assert isinstance(made, torch.optim.Optimizer), "the loop runs with one"
        return made

    def _reads_late(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the device itself can hold back an update, so that the host reads the step's figures later."""
        fused = isinstance(optimizer, torch.optim.AdamW) and bool(optimizer.defaults["fused"])
        return fused and self.args.device.type == "cuda"

    def _settle(self) -> None:
        """Read the step whose figures were left for later; end the run if it has gone wrong."""
        reading, self._reading = self._reading, None
        if reading is None:
            return
        loss, norm = reading.read()
        fault = self._guard.fault_of_loss(loss)
        if fault is None and not math.isfinite(norm):
            fault = f"the gradient's norm is {norm}"
        if fault is not None:
            self._stop(fault, reading, loss, norm)
        self.step_log.note(reading, loss, norm)

    def _report_all(self) -> None:
        """Bring the log up to the present step: before anything but the next step is done."""
        self._settle()
        self.step_log.report(now=True)

    def _stop(self, fault: str, reading: Reading, loss: float, norm: float) -> NoReturn:
        """Write the dump of the step that has gone wrong, and end the run."""
        model = self._own_model
        facts = {"step": reading.number, "loss": loss, "lr": reading.lr, "grad_norm": norm}

        model.eval()  # without dropout: the figure is the row's own

        def loss_of(sample: Sample) -> float:
            with torch.no_grad():
                return float(self.micro_batch_loss(model, MicroBatch((sample,))))

        raise self._guard.stop(fault, reading.step, facts, loss_of)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Do what is due after this step, or before the first; at the start of a resumed run, what was left undone."""
        del args, kwargs
        step = self.state.global_step
        due = self.between.due(step)
        if self._reading is None:
            self.step_log.report()
        if due or step == self.state.max_steps:
            self._report_all()
        asked = self.between.run(self._own_model, self.micro_batch_loss, step)
        self.control.should_save |= asked.save
        self.control.should_training_stop |= asked.stop
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {})
        if due or self._step is None:  # the library's preparations are no step's
            self.step_log.start_clock()
        return {}

    def _run_epoch(self, **kwargs: Any) -> None:  # type: ignore[override]  # called with names alone
        if not self.control.should_training_stop:  # by the validation at the start of a resumed run
            super()._run_epoch(**kwargs | {"model": Listed(self._own_model)})  # type: ignore[no-untyped-call]

    def prepare_model(self, model: PeftModel | PreTrainedModel, device: str) -> None:
        """Choose how the model is computed, keeping as little for the backward pass as the recipe says, and say it."""
        train = self.config.train
        assert train.gradient_checkpointing != AUTO, "the plan chooses before there is a model"
        # With deterministic algorithms torch would fill every new tensor first, a pass over memory for each; nothing is read unwritten.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        experts = choose_experts(model, train.experts)
        if experts is not None:
            self._console.line(experts.line())
            self._console.record("experts", {"grouped": experts.grouped, "why": experts.why})
        route = choose_route(model, train.layers, train.gradient_checkpointing, device)
        self._console.line(route.line())
        self._console.record(
            "layers", {"fused": route.fused is not None, "loss_in_parts": route.in_parts, "why": route.why}
        )

    def micro_batch_loss(self, model: torch.nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the summed cross entropy of a micro-batch's supervised tokens."""
        return packed_loss(model, micro_batch, self.args.device)

    def tensors_with_gradients(self, model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        """Return what is trained, by name."""
        return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Say nothing."""
        del logs, start_time

    def _get_output_dir(self, trial: Any) -> str:
        del trial
        return str(self._save_to)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self._report_all()
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
            state = {"guard": asdict(self._guard.state), "between": self.between.state()}
            (self._save_to / LOOP).write_text(json.dumps(state), encoding="utf-8")
        self._run.keep_checkpoints(self.config.checkpoint.keep, also=self.between.kept)
        self.step_log.start_clock()

    def restore(self, checkpoint: Path) -> None:
        """Give the model the weights of a checkpoint."""
        self._load_from_checkpoint(str(checkpoint))

    def take_up(self, checkpoint: Path) -> None:
        """Take up what the loop remembered at a checkpoint, before `train` resumes from it."""
        state = json.loads((checkpoint / LOOP).read_text(encoding="utf-8"))
        self._guard.take_up(state["guard"])
        self.between.take_up(state["between"])
