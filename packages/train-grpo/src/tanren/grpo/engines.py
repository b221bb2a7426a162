"""Which engine generates, and how it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from tanren.common.chat import render_prompt
from tanren.common.config import AUTO
from tanren.common.console import Console
from tanren.common.errors import UserError
from tanren.common.grammar import Grammars
from tanren.common.run import RunDirectory
from tanren.common.task_contract import Row
from tanren.common.vllm_memory import vllm_refusal
from tanren.grpo.config import GrpoConfig, StructuredConfig
from tanren.grpo.engine import Engine
from tanren.grpo.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tanren.common.vllm import Settings


@dataclass(frozen=True)
class EngineChoice:
    """The engine of a run."""

    name: Literal["transformers", "vllm", "vllm-server"]
    why: str

    def line(self) -> str:
        """Say it in one line."""
        return f"engine: {self.name} ({self.why})"


def check_server(config: GrpoConfig) -> None:
    """Raise UserError for a server that is not named rightly, or that cannot be given this adapter: before anything is loaded."""
    if config.rollout.engine != "vllm-server":
        return
    address = config.server.address
    if address is None or not address.startswith(("http://", "https://")):
        raise UserError(
            f'rollout.engine = vllm-server needs its address, found server.address = {address!r}: expected is "http://127.0.0.1:8000/v1"'
        )
    if config.rollout.structured != StructuredConfig():
        raise UserError(
            "rollout.structured: a vLLM server masks words before it takes their log-probabilities, so these are not the model's; leave it "
            "out, or take the engine vllm or transformers"
        )
    for name, said in (("dora", config.lora.dora), ("target_parameters", bool(config.lora.target_parameters))):
        if said:
            raise UserError(
                f"lora.{name}: a vLLM server takes no such adapter; leave it out, or set rollout.engine = vllm: there the merged weights are taken"
            )


def choose_engine(config: GrpoConfig, device: str, dtype: str) -> EngineChoice:
    """Choose what generates on a kind of device, in a precision. Raises UserError where vLLM was named and cannot run here."""
    named = config.rollout.engine
    if named in ("transformers", "vllm-server"):
        return EngineChoice(named, f"rollout.engine = {named}")
    refusal = vllm_refusal(device, dtype, config.model.quantisation)
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
    heldout: Sequence[Row],
    run: RunDirectory,
    console: Console,
) -> Engine:
    """Return the engine that was chosen, ready to take over the weights of `model` and to answer the prompts of either kind."""
    console.line(choice.line())
    longest = max(prompts, key=lambda one: len(one.token_ids)).token_ids
    if choice.name == "vllm-server":
        from tanren.grpo.server_engine import ServerEngine

        folder = (config.server.adapters or run.path) / f"adapters-of-{run.label}"
        with console.phase("give the server the adapter", str(config.server.address)):
            served = ServerEngine(model, config.server, folder, longest, config.seed, console)
        console.line(f"the server follows the trainer: {served.proof}")
        return served
    words = model.get_input_embeddings().num_embeddings
    grammars = Grammars(tokenizer, words) if config.rollout.structured != StructuredConfig() else None
    if choice.name == "vllm":
        from tanren.grpo.vllm_engine import VllmEngine

        asked = [tokenizer(render_prompt(tokenizer, row.prompt), add_special_tokens=False) for row in heldout]
        prompt_tokens = max([len(longest), *(len(one["input_ids"]) for one in asked)])
        settings = vllm_settings(config, model, prompt_tokens, console)
        with console.phase("start vLLM", "with empty weights; they come from the trained model"):
            engine = VllmEngine(model, settings, longest, grammars)
        console.line(f"vLLM follows the trainer: {engine.proof}")
        return engine
    from tanren.grpo.transformers_engine import TransformersEngine

    padding = tokenizer.pad_token_id
    assert padding is not None, "load_tokenizer gives every tokenizer one"
    return TransformersEngine(
        model, batch_size=config.rollout.batch_size, padding=int(padding), seed=config.seed, grammars=grammars
    )


def vllm_settings(config: GrpoConfig, model: Any, prompt_tokens: int, console: Console) -> Settings:
    """Return what vLLM is started with: a cache for all completions of a step, or as much of that as there is room for.

    Raises MachineError where there is no room for one sequence.
    """
    from tanren.common.vllm import fit_settings

    rollout, level = config.rollout, config.vllm.sleep_level
    evaluated = config.evaluation.max_new_tokens if config.evaluation.enabled else 0
    fitted = fit_settings(
        model,
        prompt_tokens=prompt_tokens,
        new_tokens=max(rollout.max_new_tokens, evaluated),
        prompts=rollout.prompts_per_step,
        samples=rollout.completions_per_prompt,
        share=None if config.vllm.gpu_memory_utilization == AUTO else config.vllm.gpu_memory_utilization,
        graphs=not config.vllm.enforce_eager,
    )
    gives = ("nothing", "its cache", "its cache and its weights")[level]
    console.line(f"vLLM: {fitted.line()}; asleep it gives back {gives}")
    return replace(fitted.settings, sleep_level=level, seed=config.seed)
