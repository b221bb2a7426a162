"""What train-grpo tells the planner: the phases of a step on one GPU, and what a training step computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
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

    from tanren.common.plan.trace import Loss


@dataclass(frozen=True)
class GrpoPlanner:
    """The entry point `train-grpo` of the group `tanren.planners`."""

    command: RecipeCommand = COMMAND

    def job(self, loaded: Loaded[GrpoConfig], target: Target) -> GrpoJob:
        """Read the model's configuration; no weights, and no rows: completions are not there yet."""
        from tanren.common.models.source import resolve_source
        from tanren.common.plan.trace import read_shape

        if target.device == "cpu":
            raise UserError(
                "the plan is of a GPU that the trainer shares with vLLM: name the one to plan for with --gpu (H100, ...); on a CPU train-grpo needs no plan"
            )
        config = loaded.config
        shape = read_shape(resolve_source(config.model.name, config.model.revision))
        dtype = precision(config.model, target)
        kernel = attention_of(config.train.attention, shape, dtype, target)
        return GrpoJob(shape, dtype, kernel, loaded, target, quantisation=config.model.quantisation)


PLANNER = GrpoPlanner()


@dataclass(frozen=True)
class GrpoJob(PackedJob):
    """A recipe of train-grpo; every prompt and completion is taken as long as it may be."""

    loaded: Loaded[GrpoConfig]
    target: Target

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

    @property
    def largest_step(self) -> int:
        """Tokens of a step."""
        return self.sequences * self.longest if self.kernel.packs else self.longest

    def laid_out(self, choice: Choice) -> Layout:
        """Lay the run out."""
        rollout, steps = self.loaded.config.rollout, self.loaded.config.train.steps
        at_once = max(1, choice.micro_batch_tokens // self.longest) if self.kernel.packs else 1
        sizes = [min(at_once, self.sequences - first) for first in range(0, self.sequences, at_once)]
        loads = [Load((self.longest,) * size, size * rollout.max_new_tokens) for size in sizes]
        return Layout(
            steps=steps,
            micro_batches=tuple(load.tokens for load in loads) * steps,
            tokens=steps * self.sequences * self.longest,
            supervised=steps * self.sequences * rollout.max_new_tokens,
            first=loads[0],
            later=loads[1] if len(loads) > 1 else None,
        )

    def attach(self, model: PreTrainedModel) -> Any:
        """Put the adapter on a model."""
        return attach_adapter(model, self.loaded.config.lora)

    def loss(self, load: Load) -> Loss:
        """Return the clipped policy loss of completions (Shao et al. 2024, arXiv:2402.03300): what it computes, not its values."""
        import torch

        from tanren.common.attention.packed import is_packed, packing_arguments

        rollout = self.loaded.config.rollout
        kept = [
            index * self.longest + position - 1
            for index in range(len(load.lengths))
            for position in range(rollout.max_prompt_tokens, self.longest)
        ]

        def compute(model: Any, device: torch.device) -> torch.Tensor:
            tokens = torch.zeros((1, load.tokens), dtype=torch.long, device=device)
            packed = packing_arguments(load.lengths, device) if is_packed(model) else {}
            logits = model(
                input_ids=tokens,
                position_ids=torch.tensor([[*range(self.longest)] * len(load.lengths)], device=device),
                logits_to_keep=torch.tensor(kept, device=device),
                use_cache=False,
                **packed,
            ).logits[0]
            targets = torch.zeros(len(kept), dtype=torch.long, device=device)
            log_probs = -torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
            old, advantages = (torch.zeros(len(kept), device=device) for _ in range(2))
            ratio = torch.exp(log_probs - old)
            return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).sum()

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
