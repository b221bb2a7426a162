"""Which engine generates, and how it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from tanren.common.config import AUTO
from tanren.common.console import Console
from tanren.common.errors import MachineError, UserError
from tanren.common.grammar import Grammars
from tanren.grpo.config import GrpoConfig, StructuredConfig
from tanren.grpo.engine import Engine
from tanren.grpo.engine_memory import GIB
from tanren.grpo.engine_memory import Engine as EngineMemory
from tanren.grpo.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tanren.common.vllm import Settings

# What is left free beside vLLM when its cache is as large as there is room: allocators round up.
LEFT_FREE = GIB


@dataclass(frozen=True)
class EngineChoice:
    """The engine of a run."""

    name: Literal["transformers", "vllm"]
    why: str

    def line(self) -> str:
        """Say it in one line."""
        return f"engine: {self.name} ({self.why})"


def require_engine(config: GrpoConfig) -> None:
    """Raise UserError for an engine that this version does not have: before anything is loaded."""
    if config.rollout.engine == "vllm-server":
        raise UserError(
            "rollout.engine = vllm-server is not part of this version; write vllm (on the same GPU) or transformers, or leave it at auto"
        )


def choose_engine(config: GrpoConfig, device: str, dtype: str) -> EngineChoice:
    """Choose what generates on a kind of device, in a precision. Raises UserError where vLLM was named and cannot run here."""
    named = config.rollout.engine
    if named == "transformers":
        return EngineChoice("transformers", "rollout.engine = transformers")
    refusal = None
    if device != "cuda":
        refusal = "vLLM generates on a GPU, and this run's device is the CPU"
    elif dtype == "float32":
        refusal = "vLLM's attention computes in 16 bits, and the model is in float32"
    elif find_spec("vllm") is None:
        refusal = "vLLM is not installed in this environment; those for GPUs have it (docs/environments.md)"
    elif config.model.quantisation not in ("none", "nf4"):
        refusal = f"vLLM takes weights in 16 bits, which {config.model.quantisation} ones are not turned back into"
    if refusal is None:
        return EngineChoice("vllm", "on the trainer's GPU")
    if named != AUTO:
        raise UserError(f"rollout.engine = {named}: {refusal}; write transformers, or leave it at auto")
    return EngineChoice("transformers", refusal)


def open_engine(
    choice: EngineChoice,
    config: GrpoConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    console: Console,
) -> Engine:
    """Return the engine that was chosen, ready to take over the weights of `model`."""
    console.line(choice.line())
    words = model.get_input_embeddings().num_embeddings
    grammars = Grammars(tokenizer, words) if config.rollout.structured != StructuredConfig() else None
    if choice.name == "vllm":
        from tanren.grpo.vllm_engine import VllmEngine

        settings = vllm_settings(config, model, prompts, console)
        with console.phase("start vLLM", "with empty weights; they come from the trained model"):
            engine = VllmEngine(model, settings, max(prompts, key=lambda one: len(one.token_ids)).token_ids, grammars)
        console.line(f"vLLM follows the trainer: {engine.proof}")
        return engine
    from tanren.grpo.transformers_engine import TransformersEngine

    padding = tokenizer.pad_token_id
    assert padding is not None, "load_tokenizer gives every tokenizer one"
    return TransformersEngine(
        model, batch_size=config.rollout.batch_size, padding=int(padding), seed=config.seed, grammars=grammars
    )


def vllm_settings(config: GrpoConfig, model: Any, prompts: Sequence[Prompt], console: Console) -> Settings:
    """Return what vLLM is started with: a cache for all completions of a step, or as much of that as there is room for.

    Raises MachineError where there is no room for one sequence.
    """
    import torch

    from tanren.common.adapted import base_of
    from tanren.common.vllm import Settings

    base, rollout = base_of(model), config.rollout
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    longest = max(len(prompt.token_ids) for prompt in prompts)
    memory = EngineMemory(
        base.config,
        base.num_parameters() * base.dtype.itemsize,
        total,
        longest,
        rollout.max_new_tokens,
        rollout.prompts_per_step,
        rollout.prompts_per_step * rollout.completions_per_prompt,
        graphs=not config.vllm.enforce_eager,
    )
    named = config.vllm.gpu_memory_utilization
    wanted = memory.step if named == AUTO else memory.cache(named)
    room = free - LEFT_FREE - sum(memory.fixed.values())
    cache = max(memory.sequence, min(wanted, room)) if named == AUTO else wanted
    if cache > room or cache < memory.sequence:
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in memory.fixed.items())
        raise MachineError(
            f"no room for vLLM: {free / GIB:.1f} GiB of the GPU are free; it needs {parts}, and for its cache "
            f"{max(cache, memory.sequence) / GIB:.1f} ({memory.sequence / GIB:.1f} for one sequence of "
            f"{longest + rollout.max_new_tokens} tokens, {memory.step / GIB:.1f} for a step); " + _what_helps(named)
        )
    held = min(memory.held(cache), memory.sequences)
    console.line(
        f"vLLM: a cache of {cache / GIB:.1f} GiB holds {held:.0f} of a step's {memory.sequences} completions at once; "
        f"asleep it gives back {('nothing', 'its cache', 'its cache and its weights')[config.vllm.sleep_level]}"
    )
    return Settings(
        sequences=memory.sequences,
        longest=longest + rollout.max_new_tokens,
        cache_bytes=cache,
        sleep_level=config.vllm.sleep_level,
        graphs=not config.vllm.enforce_eager,
        seed=config.seed,
    )


def _what_helps(named: float | str) -> str:
    if named == AUTO:
        return "lower rollout.max_new_tokens, end what else is on this GPU, or set rollout.engine = transformers"
    return f"vllm.gpu_memory_utilization = {named}: change it, or leave it at auto"
