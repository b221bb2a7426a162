"""The configuration of train-grpo, as far as the planner needs it: the trainer itself is not part of this version."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tanren.common.config import AttentionKernel, Checkpointing, ConfigModel, LoraConfig, ModelConfig

Positive = Annotated[int, Field(ge=1)]


class RolloutConfig(ConfigModel):
    """What is generated for one optimizer step."""

    prompts_per_step: Positive = 8
    """Different prompts of a step."""

    completions_per_prompt: Positive = 8
    """Completions of each prompt: its group."""

    max_prompt_tokens: Positive = 1024
    """Longest prompt."""

    max_completion_tokens: Positive = 1024
    """Longest completion."""


class TrainConfig(ConfigModel):
    """How long, and in what portions."""

    steps: Positive = 100
    """Optimizer steps."""

    micro_batch_tokens: Positive | Literal["auto"] = 4096
    """Tokens packed into one forward and backward pass. auto: what is predicted to be fastest of what fits."""

    attention: Literal["auto", AttentionKernel] = "auto"
    """Attention kernel. auto: the fastest that proves right on this machine."""

    gradient_checkpointing: Literal[Checkpointing, "auto"] = "none"
    """Recompute activations in the backward pass: of no layer, of every second one (selective), of all (full). auto: as for
    micro_batch_tokens."""


class VllmConfig(ConfigModel):
    """The generation engine on the same GPU."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    """Share of the GPU's memory that vLLM may use. auto: what holds all completions of a step at once, if there is room."""

    sleep_level: Annotated[int, Field(ge=0, le=2)] = 1
    """What vLLM gives back while the model is trained: nothing (0); the KV cache, with its weights in the host's memory (1);
    both, with its weights read again (2)."""

    enforce_eager: bool = False
    """Without CUDA graphs: a little memory less, slower generation."""

    max_model_len: Positive | None = None
    """Longest sequence; not set means prompt and completion together."""


class GrpoConfig(ConfigModel):
    """GRPO with LoRA and vLLM on one GPU: model, rollouts, training."""

    name: str = "grpo"
    """The recipe's name."""

    seed: int = 3407
    """Seed of everything random."""

    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    rollout: RolloutConfig = RolloutConfig()
    train: TrainConfig = TrainConfig()
    vllm: VllmConfig = VllmConfig()
