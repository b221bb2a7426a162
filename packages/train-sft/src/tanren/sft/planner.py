"""What train-sft tells the planner: how a recipe lays out its run, and its own training step to trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tanren.common.chat import Sample
from tanren.common.config import Loaded
from tanren.common.plan import Change, Choice, Layout, Load, Target
from tanren.common.plan.packed import PackedJob, attention_of, choice_of, open_settings_of, precision
from tanren.common.recipe_command import RecipeCommand
from tanren.sft.cli import COMMAND
from tanren.sft.config import SftConfig
from tanren.sft.packing import MicroBatch, Step, lay_out

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tanren.common.plan.trace import Loss
    from tanren.sft.plan import Plan


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

    config = plan.config
    shape, dtype = read_shape(plan.source), precision(config.model, target)
    kernel = attention_of(config.train.attention, shape, dtype, target)
    quantisation, method = config.model.quantisation, config.train.method
    return SftJob(shape, dtype, kernel, plan, samples, quantisation=quantisation, method=method)


@dataclass(frozen=True)
class SftJob(PackedJob):
    """A recipe of train-sft with its samples."""

    plan: Plan
    samples: Sequence[Sample]

    @property
    def title(self) -> str:
        """What is trained."""
        return self.trained(self.plan.config.lora)

    @property
    def choice(self) -> Choice:
        """The recipe's own."""
        train = self.plan.config.train
        return choice_of(train.micro_batch_tokens, train.gradient_checkpointing)

    @property
    def open_settings(self) -> tuple[str, ...]:
        """Settings that the recipe leaves to the planner."""
        return open_settings_of(self.plan.loaded.values())

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(len(sample.input_ids) for sample in self.samples)

    @cached_property
    def largest_step(self) -> int:
        """Tokens of the largest step, or of the longest sample where samples are not packed."""
        return max(step.tokens for step in self.steps(self.choice)) if self.kernel.packs else self.longest

    def laid_out(self, choice: Choice) -> Layout:
        """Lay the run out."""
        return layout_of(self.steps(choice))

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

    def loss(self, load: Load) -> Loss:
        """Return the trainer's loss of a micro-batch."""
        from tanren.sft.trainer import packed_loss

        micro_batch = stand_in(load)
        return lambda model, device: packed_loss(model, micro_batch, device)

    def attach(self, model: PreTrainedModel) -> Any:
        """Put the adapter on a model."""
        from tanren.common.models.load import LoadedModel
        from tanren.sft.adapter import attach_lora

        return attach_lora(self.plan, LoadedModel(model, {}))

    def changes(self) -> list[Change]:
        """Return smaller variants of the recipe: shorter samples, a lower rank."""
        found = []
        config = self.plan.config
        if self.method == "lora" and config.lora.rank > 8:
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
        plan = replace(self.plan, loaded=loaded)
        return replace(self, plan=plan, samples=samples, _traces={}, _layouts={}, _models={})


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
