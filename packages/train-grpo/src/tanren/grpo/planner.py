"""What train-grpo tells the planner: the phases of a step on one GPU, and what a training step computes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tanren.common.config import AUTO, Loaded
from tanren.common.errors import UserError
from tanren.common.lora import attach_adapter
from tanren.common.plan import GIB, LOSS, RESIDENT, Change, Choice, Layout, Load, Target, margin
from tanren.common.plan.packed import PackedJob, attention_of, choice_of, open_settings_of, precision
from tanren.common.recipe_command import RecipeCommand
from tanren.common.vllm_memory import ASLEEP, VllmMemory, kv_bytes
from tanren.grpo.command import COMMAND
from tanren.grpo.config import GrpoConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tanren.common.models.source import ModelSource
    from tanren.common.plan.trace import Loss
    from tanren.grpo.rollout import Rated


@dataclass(frozen=True)
class GrpoPlanner:
    """The entry point `train-grpo` of the group `tanren.planners`."""

    command: RecipeCommand = COMMAND

    def job(self, loaded: Loaded[GrpoConfig], target: Target) -> GrpoJob:
        """Read the model's configuration; no weights, and no rows: completions are not there yet."""
        from tanren.common.models.source import resolve_source

        if target.device == "cpu":
            raise UserError(
                "the plan is of a GPU that the trainer shares with vLLM: name the one to plan for with --gpu (H100, ...); on a CPU train-grpo needs no plan"
            )
        model = loaded.config.model
        return job_for(loaded, resolve_source(model.name, model.revision), target, colocated=True)


def job_for(loaded: Loaded[GrpoConfig], source: ModelSource, target: Target, *, colocated: bool) -> GrpoJob:
    """Return what the planner needs of a recipe: no weights, no rows. `colocated`: vLLM is on the same GPU."""
    from tanren.common.plan.trace import read_shape

    config = loaded.config
    shape = read_shape(source)
    dtype = precision(config.model, target)
    return GrpoJob(
        shape,
        dtype,
        attention_of(config.train.attention, shape, dtype, target),
        loaded,
        target,
        colocated=colocated,
        quantisation=config.model.quantisation,
        layers=config.train.layers,
        experts=config.train.experts,
        device=target.device,
    )


PLANNER = GrpoPlanner()


@dataclass(frozen=True)
class GrpoJob(PackedJob):
    """A recipe of train-grpo; every prompt and completion is taken as long as it may be."""

    loaded: Loaded[GrpoConfig]
    target: Target
    colocated: bool = field(default=True, kw_only=True)
    """Whether vLLM is on the same GPU."""

    @property
    def title(self) -> str:
        """What is trained."""
        rollout = self.loaded.config.rollout
        groups = f"{rollout.prompts_per_step} x {rollout.completions_per_prompt} completions a step"
        return f"GRPO, {groups}, {self.trained(self.loaded.config.lora)}"

    @property
    def choice(self) -> Choice:
        """The recipe's own."""
        train = self.loaded.config.train
        return choice_of(train.micro_batch_tokens, train.gradient_checkpointing)

    @property
    def open_settings(self) -> tuple[str, ...]:
        """Settings that the recipe leaves to the planner, but vLLM's share: that follows from the others."""
        return open_settings_of(self.loaded.values())

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with the longest completion."""
        rollout = self.loaded.config.rollout
        return rollout.max_prompt_tokens + rollout.max_new_tokens

    @property
    def sequences(self) -> int:
        """Completions of a step."""
        rollout = self.loaded.config.rollout
        return rollout.prompts_per_step * rollout.completions_per_prompt

    @cached_property
    def shared(self) -> bool:
        """Whether a prompt is read once for its group, as far as that is known without the weights."""
        from tanren.common.attention import traits_of
        from tanren.common.attention.packed import sharing_fault

        if self.loaded.config.train.share_prompts == "off" or not self.kernel.packs:
            return False
        return sharing_fault(self.kernel.kernel, traits_of(self.shape.config)) is None

    @property
    def largest_step(self) -> int:
        """Tokens of a step."""
        if not self.kernel.packs:
            return self.longest
        rollout = self.loaded.config.rollout
        prompts = rollout.prompts_per_step if self.shared else self.sequences
        return prompts * rollout.max_prompt_tokens + self.sequences * rollout.max_new_tokens

    def laid_out(self, choice: Choice) -> Layout:
        """Lay the run out, as the trainer does it."""
        from tanren.grpo.micro_batches import micro_batches

        rollout, steps = self.loaded.config.rollout, self.loaded.config.train.steps
        every = self._stand_ins(
            [group for group in range(rollout.prompts_per_step) for _ in range(rollout.completions_per_prompt)]
        )
        budget = choice.micro_batch_tokens if self.kernel.packs else 1
        loads = sorted(
            (self._load(batch) for batch in micro_batches(every, budget, shared=self.shared)),
            key=lambda load: -load.tokens,
        )
        return Layout(
            steps=steps,
            micro_batches=tuple(load.tokens for load in loads) * steps,
            tokens=steps * sum(load.tokens for load in loads),
            supervised=steps * self.sequences * rollout.max_new_tokens,
            first=loads[0],
            later=loads[1] if len(loads) > 1 else None,
        )

    def _stand_ins(self, groups: Sequence[int]) -> list[Rated]:
        """Return completions of these groups, as long as they may be: the values of their tokens do not matter."""
        from tanren.grpo.micro_batches import stand_in

        rollout = self.loaded.config.rollout
        prompt, completion = (0,) * rollout.max_prompt_tokens, (0,) * rollout.max_new_tokens
        return [stand_in(prompt, completion, group) for group in groups]

    def _load(self, batch: Sequence[Rated]) -> Load:
        from tanren.grpo.micro_batches import tensors_of

        made = tensors_of(batch, "cpu", shared=self.shared)
        return Load(tuple(made.lengths), sum(made.learned), tuple(made.follows) if self.shared else ())

    def attach(self, model: PreTrainedModel) -> Any:
        """Put the adapter on a model."""
        return attach_adapter(model, self.loaded.config.lora)

    def loss(self, load: Load) -> Loss:
        """Return the trainer's loss of a micro-batch: what it computes, not its values."""
        from tanren.grpo.losses import token_terms
        from tanren.grpo.micro_batches import log_probs_of, tensors_of

        goes_on = load.follows or (False,) * len(load.lengths)
        groups = list(accumulate(not follows for follows in goes_on))
        batch = self._stand_ins(
            [group for group, follows in zip(groups, goes_on, strict=True) if follows == self.shared]
        )
        config = self.loaded.config.loss

        def compute(model: Any, device: torch.device) -> torch.Tensor:
            made = tensors_of(batch, device, shared=self.shared)
            found = log_probs_of(model, made).log_probs
            return token_terms(config, found, found.detach(), made.advantages, made.learned).loss.sum()

        return compute

    @cached_property
    def engine(self) -> VllmMemory:
        """The generation engine."""
        from tanren.common.plan.trace import empty_model

        config = self.loaded.config
        model = empty_model(self.shape, self.dtype)
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        rollout = config.rollout
        return VllmMemory(
            self.shape.config,
            weights,
            self.target.total,
            rollout.max_prompt_tokens,
            rollout.max_new_tokens,
            rollout.prompts_per_step,
            self.sequences,
            graphs=not config.vllm.enforce_eager,
        )

    def share(self, train: Mapping[str, int], target: Target) -> float:
        """Return vLLM's share of the memory: the recipe's, or the least that holds a step's completions, if there is room."""
        named = self.loaded.config.vllm.gpu_memory_utilization
        if named != AUTO:
            return named
        taken = sum(train.get(name, 0) for name in RESIDENT)
        if (
            self.loaded.config.vllm.sleep_level == 0
        ):  # the logits are the largest part; the allocator's slack goes by them
            taken = sum(train.values()) + int(target.slack * train.get(LOSS, 0))
        room = target.free - margin(target) - target.context - taken
        # Rounded down, so that what is written into a recipe is what was planned.
        most = math.floor(1000 * room / target.total) / 1000
        return max(self.engine.least, min(self.engine.most, most))

    def phases(self, train: Mapping[str, int], target: Target) -> Mapping[str, Mapping[str, int]]:
        """Return what is in memory while completions are generated, while the engine wakes and gets the adapter, and in training."""
        if not self.colocated:
            return {"train": train}
        level = self.loaded.config.vllm.sleep_level
        engine = self.engine
        share = self.share(train, target)
        resident = {name: size for name, size in train.items() if name in RESIDENT}
        awake = {**engine.fixed, "KV cache": engine.cache(share)}
        asleep = awake if level == 0 else {"vLLM asleep": min(ASLEEP, sum(awake.values()))}
        # The adapter reaches the engine merged into its weights, one matrix after the other.
        sync = {**resident, "vLLM weights": engine.weights, "largest matrix": self._largest_matrix}
        return {
            "generate": {**resident, **awake},
            "wake, sync": sync if level else {**resident, **awake, "largest matrix": self._largest_matrix},
            "train": {**train, **asleep},
        }

    @cached_property
    def _largest_matrix(self) -> int:
        """Bytes of the largest weight of a layer in float32: its update is computed so."""
        from tanren.common.plan.trace import empty_model

        model = empty_model(self.shape, self.dtype)
        head = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
        return max(4 * one.numel() for one in model.parameters() if id(one) not in head)

    def facts(self, train: Mapping[str, int], target: Target) -> list[str]:
        """Say how many completions vLLM holds at once."""
        if not self.colocated:
            return []
        share = self.share(train, target)
        held = self.engine.held(self.engine.cache(share))
        at_once = min(held, self.sequences)
        # Each token of a batch reads all weights, and the cache of every sequence: its prompt, and half of what it writes.
        rollout = self.loaded.config.rollout
        read = self.engine.weights + at_once * kv_bytes(
            self.shape.config, rollout.max_prompt_tokens + rollout.max_new_tokens // 2
        )
        rounds = math.ceil(self.sequences / max(1.0, at_once))
        tokens = rollout.max_new_tokens
        seconds = rounds * tokens * read / target.ceilings.bandwidth_bytes_per_s
        asleep = ["asleep, vLLM keeps its weights in the host's memory: " + f"{self.engine.weights / GIB:.1f} GiB"]
        return [
            *(asleep if self.loaded.config.vllm.sleep_level == 1 else []),
            f"vLLM takes {share:.3f} of the memory: KV cache for {held:.1f} completions of {self.longest} tokens at once, of {self.sequences}",
            f"generation adds at least {seconds:.1f} s a step to the time below, by what it reads",
        ]

    def frozen(self, choice: Choice, train: Mapping[str, int], target: Target) -> Mapping[str, Any]:
        """Return the settings that freeze a choice in the recipe, vLLM's share with it."""
        if not self.colocated:
            return self.flags(choice)
        return {**self.flags(choice), "vllm.gpu_memory_utilization": round(self.share(train, target), 3)}

    def changes(self) -> list[Change]:
        """Return smaller variants of the recipe: shorter completions, a lower rank, a deeper sleep."""
        config = self.loaded.config
        found = []
        if self.method == "lora" and config.lora.rank > 8:
            found.append(self._change({"lora.rank": config.lora.rank // 2}))
        if config.vllm.sleep_level == 0:
            found.append(self._change({"vllm.sleep_level": 1}))
        found.append(self._change({"rollout.max_new_tokens": max(1, config.rollout.max_new_tokens // 2)}))
        return found

    def _change(self, values: Mapping[str, Any]) -> Change:
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())
        loaded = self.loaded.with_values(values, "a change")
        return Change(flags, replace(self, loaded=loaded, _traces={}, _layouts={}, _models={}))
