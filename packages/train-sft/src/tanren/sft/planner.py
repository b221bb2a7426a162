"""What train-sft tells the planner: how a recipe lays out its run, and its own training step to trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tanren.common.config import Loaded
from tanren.common.plan import Change, Choice, Layout, Load, Target
from tanren.common.plan.packed import PackedJob, attention_of, choice_of, open_settings_of, precision
from tanren.common.recipe_command import RecipeCommand
from tanren.sft.command import COMMAND
from tanren.sft.config import SftConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from tanren.common.chat import Sample
    from tanren.common.plan.trace import Loss
    from tanren.sft.packing import MicroBatch, Steps
    from tanren.sft.plan import Plan
    from tanren.sft.store import TrainingSamples


@dataclass(frozen=True)
class SftPlanner:
    """The entry point `train-sft` of the group `tanren.planners`."""

    command: RecipeCommand = COMMAND

    def job(self, loaded: Loaded[SftConfig], target: Target) -> SftJob:
        """Read the model's configuration, the tokenizer and the rows; no weights."""
        from tanren.common.models.load import load_tokenizer
        from tanren.sft.plan import make_plan
        from tanren.sft.training_data import make_training_data

        plan = make_plan(loaded)
        tokenizer = load_tokenizer(plan.source, plan.config.model.chat_template)
        return job_for(plan, make_training_data(tokenizer, plan).training, target)


PLANNER = SftPlanner()


def job_for(plan: Plan, samples: Sequence[Sample], target: Target) -> SftJob:
    """Return what the planner needs of a plan whose rows are samples already; of the model its configuration alone is read."""
    from tanren.common.plan.trace import read_shape
    from tanren.sft.store import TrainingSamples

    config = plan.config
    shape, dtype = read_shape(plan.source), precision(config.model, target)
    kernel = attention_of(config.train.attention, shape, dtype, target)
    quantisation, method = config.model.quantisation, config.train.method
    return SftJob(
        shape,
        dtype,
        kernel,
        plan,
        TrainingSamples.of(samples),
        quantisation=quantisation,
        method=method,
        layers=config.train.layers,
        experts=config.train.experts,
        device=target.device,
    )


@dataclass(frozen=True)
class SftJob(PackedJob):
    """A recipe of train-sft with its samples."""

    plan: Plan
    samples: TrainingSamples

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
        return int(self.samples.lengths.max())

    @cached_property
    def largest_step(self) -> int:
        """Tokens of the largest step, or of the longest sample where samples are not packed."""
        return int(self.steps(self.choice).step_tokens.max()) if self.kernel.packs else self.longest

    def laid_out(self, choice: Choice) -> Layout:
        """Lay the run out."""
        return layout_of(self.steps(choice))

    def steps(self, choice: Choice) -> Steps:
        """Return the run's steps as the trainer will do them."""
        return self.plan.lay_out(self.samples, choice.micro_batch_tokens if self.kernel.packs else 1)

    def loss(self, load: Load) -> Loss:
        """Return the trainer's loss of a micro-batch."""
        from tanren.sft.loss import packed_loss

        micro_batch = stand_in(load)
        return lambda model, device: packed_loss(model, micro_batch, device)

    def attach(self, model: PreTrainedModel) -> Any:
        """Put the adapter on a model."""
        from tanren.common.adapter import attach_lora
        from tanren.common.models.load import LoadedModel

        return attach_lora(LoadedModel(model, {}), self.plan.config.lora, self.plan.config.seed)

    def changes(self) -> list[Change]:
        """Return smaller variants of the recipe: shorter samples, a lower rank."""
        found = []
        config = self.plan.config
        if self.method == "lora" and config.lora.rank > 8:
            rank = config.lora.rank // 2
            found.append(Change(f"--lora.rank {rank}", self._with("lora", {"rank": rank}, self.samples)))
        half = self.longest // 2
        kept = self.samples.no_longer_than(half)
        if len(kept) > len(self.samples) // 2 and all(kept.sizes):
            flag = f"--data.max-tokens {half} --data.too-long drop"
            found.append(Change(flag, self._with("data", {"max_tokens": half, "too_long": "drop"}, kept)))
        return found

    def _with(self, section: str, values: Mapping[str, Any], samples: TrainingSamples) -> SftJob:
        config = self.plan.config
        changed = getattr(config, section).model_copy(update=values)
        loaded = replace(self.plan.loaded, config=config.model_copy(update={section: changed}))
        plan = replace(self.plan, loaded=loaded)
        return replace(self, plan=plan, samples=samples, _traces={}, _layouts={}, _models={})


def layout_of(steps: Steps) -> Layout:
    """Count what a laid-out run consists of."""
    import numpy as np

    tokens, supervised = steps.tokens, steps.supervised
    is_first = np.zeros(len(tokens), dtype=bool)
    is_first[steps.first_micro_batches] = True
    return Layout(
        steps=len(steps),
        micro_batches=tuple(tokens.tolist()),
        tokens=int(tokens.sum()),
        supervised=int(supervised.sum()),
        first=_load(steps, np.flatnonzero(is_first)),
        later=None if is_first.all() else _load(steps, np.flatnonzero(~is_first)),
    )


def _load(steps: Steps, micro_batches: NDArray[np.intp]) -> Load:
    """Return the samples of the largest and the most learned tokens, which may be another's: memory grows with both."""
    largest = micro_batches[steps.tokens[micro_batches].argmax()]
    lengths = steps.samples.lengths[steps.micro_batch(int(largest))]
    return Load(tuple(lengths.tolist()), int(steps.supervised[micro_batches].max()))


def stand_in(load: Load) -> MicroBatch:
    """Return a micro-batch of that load: the values of its tokens do not matter."""
    from tanren.common.chat import Sample
    from tanren.sft.packing import MicroBatch

    samples = []
    left = load.supervised
    for length in load.lengths:
        learned = min(left, length - 1)
        left -= learned
        samples.append(Sample("", [0] * length, [index >= length - learned for index in range(length)], ""))
    return MicroBatch(tuple(samples))
