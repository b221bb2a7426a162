"""What train-sft tells the planner: how a recipe lays out its run, and its own training step to trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tanren.common.chat import Sample
from tanren.common.config import Checkpointing, Loaded, flatten
from tanren.common.plan import Change, Choice, Layout, Load, Target
from tanren.common.recipe_command import RecipeCommand
from tanren.sft.cli import COMMAND
from tanren.sft.config import AUTO, SftConfig
from tanren.sft.packing import MicroBatch, Step, lay_out

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tanren.common.attention import Choice as AttentionChoice
    from tanren.common.plan.trace import Loss, Shape, StepTrace
    from tanren.sft.plan import Plan

PLANNED = ("train.micro_batch_tokens", "train.gradient_checkpointing")
"""Settings that may be left to the planner."""
# What a setting that is left to the planner stands for until the planner has chosen.
FIRST_TRIED = Choice(2048, "none")
SMALL = 0.01
"""Share of the peak below which it does not matter whether gradients are there."""


@dataclass(frozen=True)
class SftPlanner:
    """The entry point `train-sft` of the group `tanren.planners`."""

    command: RecipeCommand = COMMAND

    def job(self, loaded: Loaded[SftConfig], target: Target) -> SftJob:
        """Read the model's configuration, the tokenizer and the rows; no weights."""
        from tanren.common.models.load import load_tokenizer
        from tanren.sft.plan import make_plan
        from tanren.sft.samples import make_samples

        plan = make_plan(loaded)
        samples, _ = make_samples(load_tokenizer(plan.source), plan.train_rows, plan.config.data)
        return job_for(plan, samples, target)


PLANNER = SftPlanner()


def job_for(plan: Plan, samples: Sequence[Sample], target: Target) -> SftJob:
    """Return what the planner needs of a plan whose rows are samples already; of the model its configuration alone is read."""
    from tanren.common.plan.trace import read_shape

    shape, dtype = read_shape(plan.source), precision(plan.config, target)
    return SftJob(plan, shape, samples, dtype, attention_of(plan.config, shape, dtype, target))


def open_settings_of(plan: Plan) -> tuple[str, ...]:
    """Return the settings (dotted names) that a recipe leaves to the planner."""
    values = flatten(plan.loaded.values())
    return tuple(name for name in PLANNED if values[name] == AUTO)


def precision(config: SftConfig, target: Target) -> torch.dtype:
    """Return the precision of the frozen weights on a device (`plan_device` decides the same where the device is here)."""
    import torch

    from tanren.common.models.device import plan_device

    if target.device == "cpu":
        return plan_device(config.model.model_copy(update={"device": "cpu"})).torch_dtype
    if config.model.dtype == "auto":
        return torch.bfloat16 if target.bfloat16 else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.model.dtype]


def attention_of(config: SftConfig, shape: Shape, dtype: torch.dtype, target: Target) -> AttentionChoice:
    """Return the attention that a run would choose on a device, by rule alone.

    Of a device that is not here, the environments for GPUs are thought to be installed.
    """
    from tanren.common.attention import installed_kernels, select_attention, traits_of

    installed = dict(installed_kernels())
    if not target.here:
        installed.setdefault("flash_attention_4", "of the GPU locks")
    name = str(dtype).removeprefix("torch.")
    return select_attention(target.gpu, installed, traits_of(shape.config), dtype=name, named=config.train.attention)


@dataclass(frozen=True)
class SftJob:
    """A recipe of train-sft with its samples."""

    plan: Plan
    shape: Shape
    samples: Sequence[Sample]
    dtype: torch.dtype
    kernel: AttentionChoice
    _traces: dict[Choice, StepTrace] = field(default_factory=dict, compare=False)
    _layouts: dict[int, Layout] = field(default_factory=dict, compare=False)
    _models: dict[Checkpointing, Any] = field(default_factory=dict, compare=False)

    @property
    def title(self) -> str:
        """What is trained."""
        lora = self.plan.config.lora
        targets = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
        return f"LoRA rank {lora.rank} on {targets}"

    @property
    def attention(self) -> str:
        """The kernel."""
        return self.kernel.kernel

    @property
    def choice(self) -> Choice:
        """The recipe's own."""
        train = self.plan.config.train
        tokens = FIRST_TRIED.micro_batch_tokens if train.micro_batch_tokens == AUTO else train.micro_batch_tokens
        checkpointing: Checkpointing = (
            FIRST_TRIED.checkpointing if train.gradient_checkpointing == AUTO else train.gradient_checkpointing
        )
        return Choice(tokens, checkpointing)

    @property
    def open_settings(self) -> tuple[str, ...]:
        """Settings that the recipe leaves to the planner."""
        return open_settings_of(self.plan)

    @property
    def smallest(self) -> Choice:
        """What takes least memory."""
        return Choice(self.longest, "full")

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(len(sample.input_ids) for sample in self.samples)

    @cached_property
    def largest_step(self) -> int:
        """Tokens of the largest step, or of the longest sample where samples are not packed."""
        return max(step.tokens for step in self.steps(self.choice)) if self.kernel.packs else self.longest

    def layout(self, choice: Choice) -> Layout:
        """Lay the run out."""
        if choice.micro_batch_tokens not in self._layouts:
            self._layouts[choice.micro_batch_tokens] = layout_of(self.steps(choice))
        return self._layouts[choice.micro_batch_tokens]

    def steps(self, choice: Choice) -> list[Step]:
        """Return the run's steps as the trainer will do them."""
        config = self.plan.config
        return lay_out(
            self.samples,
            rows=self.plan.rows_to_train(len(self.samples)),
            rows_per_step=config.train.rows_per_step,
            budget=choice.micro_batch_tokens if self.kernel.packs else 1,
            seed=config.seed,
        )

    def trace(self, choice: Choice) -> StepTrace:
        """Trace the largest micro-batch with the trainer's own adapter and loss."""
        if choice not in self._traces:
            self._traces[choice] = self._trace(choice)
        return self._traces[choice]

    def _trace(self, choice: Choice) -> StepTrace:
        from tanren.common.plan.trace import GRADIENTS, attention_stands_in, empty_model, trace_step

        def traced(load: Load, *, gradients: bool) -> StepTrace:
            with attention_stands_in(self.kernel, load.lengths):
                if choice.checkpointing not in self._models:
                    self._models[choice.checkpointing] = self.trained_model(empty_model(self.shape, self.dtype), choice)
                return trace_step(self._models[choice.checkpointing], self.loss(load), gradients=gradients)

        layout = self.layout(choice)
        found = traced(layout.largest, gradients=layout.later is not None)
        if layout.later is None or found.peak[GRADIENTS] < SMALL * found.peak_bytes:
            return found
        # The largest micro-batch of a step is usually its first, which finds no gradients.
        first, later = traced(layout.first, gradients=False), traced(layout.later, gradients=True)
        return replace(found, peak=max(first, later, key=lambda trace: trace.peak_bytes).peak)

    def trained_model(self, model: PreTrainedModel, choice: Choice) -> torch.nn.Module:
        """Make a model of the shape what is trained: attention, adapter, checkpointing."""
        from tanren.common.models.checkpointing import enable_checkpointing

        prepared: torch.nn.Module = self.prepare(model)
        prepared.train()
        enable_checkpointing(prepared, choice.checkpointing)
        return prepared

    def loss(self, load: Load) -> Loss:
        """Return the trainer's loss of a micro-batch."""
        from tanren.sft.trainer import packed_loss

        micro_batch = stand_in(load)
        return lambda model, device: packed_loss(model, micro_batch, device)

    def prepare(self, model: PreTrainedModel) -> Any:
        """Make a loaded model what is trained: its attention, its adapter on the model's own device."""
        from tanren.common.models.load import LoadedModel
        from tanren.sft.adapter import attach_lora

        self.set_attention(model)
        with model.device:
            return attach_lora(self.plan, LoadedModel(model, {}))

    def set_attention(self, model: PreTrainedModel) -> None:
        """Give a model the kernel of the plan, without the proofs of a run."""
        from tanren.common.attention.packed import registered_name

        if self.kernel.packs:
            model.set_attn_implementation(registered_name(self.attention))

    def flags(self, choice: Choice) -> Mapping[str, Any]:
        """Return the settings that freeze a choice in the recipe."""
        return {
            "train.micro_batch_tokens": choice.micro_batch_tokens,
            "train.gradient_checkpointing": choice.checkpointing,
        }

    def changes(self) -> list[Change]:
        """Return smaller variants of the recipe: shorter samples, a lower rank."""
        found = []
        config = self.plan.config
        if config.lora.rank > 8:
            rank = config.lora.rank // 2
            found.append(Change(f"--lora.rank {rank}", self._with("lora", {"rank": rank}, self.samples)))
        half = self.longest // 2
        kept = [sample for sample in self.samples if len(sample.input_ids) <= half]
        if len(kept) > len(self.samples) // 2:
            flag = f"--data.max-tokens {half} --data.too-long drop"
            found.append(Change(flag, self._with("data", {"max_tokens": half, "too_long": "drop"}, kept)))
        return found

    def _with(self, section: str, values: Mapping[str, Any], samples: Sequence[Sample]) -> SftJob:
        config = self.plan.config
        changed = getattr(config, section).model_copy(update=values)
        loaded = replace(self.plan.loaded, config=config.model_copy(update={section: changed}))
        return SftJob(replace(self.plan, loaded=loaded), self.shape, samples, self.dtype, self.kernel)


def layout_of(steps: Sequence[Step]) -> Layout:
    """Count what a laid-out run consists of."""
    micro_batches = [micro_batch for step in steps for micro_batch in step.micro_batches]
    later = [micro_batch for step in steps for micro_batch in step.micro_batches[1:]]
    return Layout(
        steps=len(steps),
        micro_batches=tuple(micro_batch.tokens for micro_batch in micro_batches),
        tokens=sum(step.tokens for step in steps),
        supervised=sum(step.supervised for step in steps),
        first=_load([step.micro_batches[0] for step in steps]),
        later=_load(later) if later else None,
    )


def _load(micro_batches: Sequence[MicroBatch]) -> Load:
    """Return the samples of the largest and the most learned tokens, which may be another's: memory grows with both."""
    largest = max(micro_batches, key=lambda micro_batch: micro_batch.tokens)
    return Load(
        tuple(len(sample.input_ids) for sample in largest.samples),
        max(sum(sample.supervised for sample in one.samples) for one in micro_batches),
    )


def stand_in(load: Load) -> MicroBatch:
    """Return a micro-batch of that load: the values of its tokens do not matter."""
    samples = []
    left = load.supervised
    for length in load.lengths:
        learned = min(left, length - 1)
        left -= learned
        samples.append(Sample("", [0] * length, [index >= length - learned for index in range(length)], ""))
    return MicroBatch(tuple(samples))
