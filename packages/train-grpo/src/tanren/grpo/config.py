"""The configuration of train-grpo. Its docstrings are the help, the JSON schema and the reference page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from tanren.common.config import (
    AttentionKernel,
    CheckpointConfig,
    Checkpointing,
    ConfigModel,
    Experts,
    GenerationConfig,
    Layers,
    LoraConfig,
    OptimConfig,
    OutputConfig,
    RequestsConfig,
    StartConfig,
    TaskConfig,
    TrackingConfig,
)
from tanren.grpo.rewards import RewardConfig

Positive = Annotated[int, Field(ge=1)]
LossKind = Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"]
Scale = Literal["none", "group", "batch"]
Correction = Literal["none", "token", "sequence"]
Truncated = Literal["keep", "mask", "penalise"]
SharePrompts = Literal["auto", "on", "off"]


class DataConfig(ConfigModel):
    """Where the prompts come from."""

    file: Path | None = None
    """A file of prompts to take instead of the task pack's. JSON lines: `prompt` or `messages`, and `answer` where one is known. CSV: a
    prompt and the value of each action (`q_action_0`, ...) for each state. A task pack that is named, too, judges the completions."""

    curriculum: str | None = None
    """The key of a number in the rows' metadata: the first time through, prompts come from its lowest value to its highest, those of
    one value in random order. Not set: all in random order."""


class StructuredConfig(ConfigModel):
    """The form of every completion: one of three, or none. Words that would leave it are not sampled (docs/train-grpo.md)."""

    json_schema: Path | None = None
    """A file with a JSON schema: a completion is a JSON document of that schema."""

    regex: str | None = None
    """An expression that the whole completion matches, in Rust's syntax: no look-around, no back-references, and `\\d` is
    a digit of any script."""

    choices: list[str] | None = None
    """A completion is one of these texts."""


class RolloutConfig(ConfigModel):
    """What is generated for one step."""

    prompts_per_step: Positive = 8
    """Different prompts of a step, drawn without replacement until all have been seen."""

    completions_per_prompt: Positive = 8
    """Completions of each prompt: its group."""

    max_prompt_tokens: Positive = 1024
    """Longest prompt; a longer one is an error that names its row."""

    max_new_tokens: Positive = 1024
    """Longest completion; one that reaches it is truncated."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Logits are divided by it before sampling. What is trained, and every log-probability, is the model at temperature 1."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the most probable words that together have this probability; 1: from all."""

    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample from so many of the most probable words; 0: from all."""

    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Sample from words at least this share as probable as the most probable one; 0: from all."""

    engine: Literal["auto", "transformers", "vllm", "vllm-server"] = "auto"
    """What generates. transformers: the trained model itself, on a CPU or GPU. vllm: on the same GPU, asleep while the model is
    trained. vllm-server: the server of the section server. auto: the fastest that can run here, in this process."""

    batch_size: Positive = 64
    """Completions decoded together by the engine transformers; memory grows with it."""

    ahead: Literal[0, 1] = 0
    """Steps whose completions are generated while the model learns. 0: every step samples with the newest weights. 1: a step's
    completions are generated during the step before, by the weights that this one begins with (docs/train-grpo.md)."""

    truncated: Truncated = "keep"
    """What happens to a truncated completion. keep: it is rewarded as any other. mask: it is left out of its group's mean and of
    the loss. penalise: its reward is rollout.truncated_reward."""

    truncated_reward: float = 0.0
    """The reward of a truncated completion with truncated = penalise."""

    refills: Annotated[int, Field(ge=0)] = 0
    """How often, at most, new prompts are drawn in a step in place of those whose rewards are all equal (dynamic sampling,
    arXiv:2503.14476, section 3.2); 0: never."""

    structured: StructuredConfig = StructuredConfig()


class LossConfig(ConfigModel):
    """The objective."""

    kind: LossKind = "dr_grpo"
    """grpo (arXiv:2402.03300), dr_grpo (arXiv:2503.20783), dapo (arXiv:2503.14476), bnpo, gspo (arXiv:2507.18071), cispo
    (arXiv:2506.13585): how tokens are weighted against one another, and what is clipped."""

    scale: Scale = "none"
    """What advantages are divided by: nothing, the standard deviation of their group's rewards, or of the whole step's."""

    beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the divergence from the model without the adapter; 0: no reference is computed."""

    clip_low: Annotated[float, Field(gt=0)] = 0.2
    """How far the ratio of new to old probability may fall below 1 before a token gives no gradient. gspo: usual is 3e-4."""

    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """How far it may rise above 1. dapo: usual is 0.28; gspo: 4e-4."""

    correction: Correction = "none"
    """Weight each token, or each completion, by how much more probable the trainer finds it than the engine that sampled it, at
    most correction_cap: for an engine whose numbers differ from the trainer's."""

    correction_cap: Annotated[float, Field(gt=0)] = 2.0
    """Largest such weight."""

    max_gap: Annotated[float, Field(ge=0)] = 0.015
    """Stop where the mean divergence between engine and trainer (nats per token), less two standard errors, is above this; 0: never. prime-rl
    has this limit."""


class TrainConfig(ConfigModel):
    """How long, and in what portions."""

    steps: Positive = 100
    """Steps: each generates, judges and learns."""

    updates_per_step: Positive = 1
    """Optimizer updates on the completions of one step, each on its share of the prompts. The ratio of new to old probability
    differs from 1, and clipping has an effect, from the second one on."""

    micro_batch_tokens: Positive | Literal["auto"] = 4096
    """Tokens packed into one forward and backward pass; the result does not change. auto: what is predicted to be fastest of what fits."""

    attention: Literal["auto", AttentionKernel] = "auto"
    """Attention kernel. auto: the fastest that proves right on this machine. A named one that cannot run is an error."""

    layers: Layers = "auto"
    """How the layers are computed (docs/speed.md). auto: fused on a GPU where the model can have it; on a CPU the library's, with LoRA's
    products alone in place of PEFT's layers."""

    experts: Experts = "auto"
    """How the fused experts of a mixture are computed, in generation, too. grouped: one product for all experts, and the adapters beside
    the weights; plain: the library's. auto: grouped where the model can have it."""

    gradient_checkpointing: Literal[Checkpointing, "auto"] = "none"
    """Recompute activations in the backward pass: of no layer, of every second one (selective), of all (full). auto: as for
    micro_batch_tokens."""

    share_prompts: SharePrompts = "auto"
    """Read a prompt once for all completions of its group in one pass, in training, too (docs/train-grpo.md). auto: where the
    attention kernel can, and it proves right on the model."""

    ema: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Weight of the newest step in the running means that metrics.csv has beside the raw numbers."""


class VllmConfig(ConfigModel):
    """The generation engine on the same GPU."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    """Share of the GPU's memory that vLLM may use, weights included. auto: what holds all completions of a step at once, if there is room."""

    sleep_level: Literal[0, 1, 2] = 2
    """What vLLM gives back while the model is trained. 0: nothing, the fastest where both fit. 1: the KV cache; its weights wait in
    the host's memory. 2: both; its weights are taken from the trained model anew, which is faster than from the host."""

    enforce_eager: bool = False
    """Without CUDA graphs: it starts sooner, takes a little less memory, and generates slower."""


class ServerConfig(RequestsConfig):
    """The generation engine in another process, or on another machine: a vLLM server with the same base model."""

    address: str | None = None
    """Its address, with the path before /completions: `http://127.0.0.1:8000/v1`."""

    model: str | None = None
    """The name under which it serves the base model; not set: the first that it lists."""

    adapters: Path | None = None
    """A folder that trainer and server both see, for the adapter of each step; not set: in the run directory."""


class GrpoEvaluationConfig(GenerationConfig):
    """Evaluation on the pack's held-out rows by greedy decoding, before and after training."""

    enabled: bool = True
    """Evaluate before and after."""


class GrpoTrackingConfig(TrackingConfig):
    """Experiment tracking beside metrics.jsonl."""

    experiment: str = "tanren-grpo"
    """The MLflow experiment's name."""


class GrpoConfig(ConfigModel):
    """GRPO with LoRA: model, prompts, rollouts, rewards, loss, training."""

    name: str = "grpo"
    """The recipe's name; run directories begin with it."""

    seed: int = 3407
    """Seed of everything random: order of prompts, sampling, adapter initialisation."""

    model: StartConfig = StartConfig()
    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    lora: LoraConfig = LoraConfig()
    rollout: RolloutConfig = RolloutConfig()
    rewards: Annotated[list[RewardConfig], tyro.conf.Suppress] = [RewardConfig()]
    """What completions are rewarded for, in the recipe: each a table `[[rewards]]`. Not given: the task pack's own reward."""

    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    vllm: VllmConfig = VllmConfig()
    server: ServerConfig = ServerConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: GrpoEvaluationConfig = GrpoEvaluationConfig()
    tracking: GrpoTrackingConfig = GrpoTrackingConfig()
    output: OutputConfig = OutputConfig()
