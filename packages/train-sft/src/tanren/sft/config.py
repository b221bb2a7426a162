"""The configuration of train-sft. Its docstrings are the help, the JSON schema and the reference page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, field_validator

from tanren.common.chat import MARKERS
from tanren.common.config import (
    AttentionKernel,
    CheckpointConfig,
    Checkpointing,
    ConfigModel,
    Experts,
    GenerationConfig,
    Layers,
    LoraConfig,
    Method,
    OptimConfig,
    OutputConfig,
    StartConfig,
    TaskConfig,
    TrackingConfig,
)

Positive = Annotated[int, Field(ge=1)]


class SourceConfig(ConfigModel):
    """One source of rows."""

    name: str
    """A file, a hub dataset's id (`owner/name`), or `pack:NAME`."""

    split: str = "train"
    """The split of a hub dataset or of a pack."""

    revision: str | None = None
    """Branch, tag or commit of a hub dataset; not set means its default branch."""

    layout: Literal["auto", "messages", "alpaca", "segments", "prompt-completion"] = "auto"
    """How a row is written; auto: told from its keys."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """The source's share of data.total, in proportion to the other weights."""


class PhaseConfig(ConfigModel):
    """One phase of a curriculum; the phases are trained in their order within one run."""

    sources: list[str] | dict[str, float]
    """Names of the sources, or a table of name = factor: how often each of its rows comes in one pass (0.2: a fifth of them)."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the phase's rows; not set means 1."""

    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of train.max_steps that the phase takes; needed with max_steps, together 1."""


class DataConfig(ConfigModel):
    """Where the rows come from, how they are mixed, and what happens to those that do not fit."""

    file: Path | None = None
    """A file of rows to train on instead of the task pack's: the short way to write one source."""

    sources: Annotated[list[SourceConfig], tyro.conf.Suppress] = []
    """Sources of rows to train on instead of the task pack's; in the recipe, each a table `[[data.sources]]`."""

    total: Positive | Literal["all"] = "all"
    """Rows taken of all sources together, by their weights; all: every row of every source once."""

    upsample: Annotated[Mapping[str, Annotated[float, Field(gt=0)]], tyro.conf.Suppress] = {}
    """Rule = factor, in the recipe: rows for training that a rule matches come that often (0.5: half of them). A rule is a part
    of the row's subcategory, `pack:NAME`, or `metadata.KEY=VALUE`; of several that match, the factors multiply."""

    phases: Annotated[list[PhaseConfig], tyro.conf.Suppress] = []
    """A curriculum, in the recipe: each phase a table `[[data.phases]]`; not given means one phase with every source."""

    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the rows that is kept for the evaluation loss; rows with the same prompt stay on one side. 0: none."""

    validation: Annotated[list[SourceConfig], tyro.conf.Suppress] = []
    """Sources of rows for the evaluation loss, in the recipe: each a table `[[data.validation]]`."""

    normalise: Literal["none", "code-tags"] = "none"
    """How answers are rewritten before they are learned. code-tags: the payload alone, between <|BEGIN_CODE|> and <|END_CODE|>."""

    learn_turns: Literal["last", "all"] = "last"
    """Which of the assistant's turns are learned; the others are read."""

    learn_answer: Literal["whole", "after_marker", "from_marker"] = "whole"
    """What of an answer is learned: all of it, or what comes after its marker (the reasoning before it is read, not learned),
    or the marker and what comes after it."""

    markers: list[str] = list(MARKERS)
    """What stands between reasoning and result, at the beginning of a line. Of several, the first that fills its line."""

    no_marker: Literal["whole", "drop", "error"] = "whole"
    """What happens to a row with an answer without a marker: learned whole (counted), left out (counted and listed), or stop."""

    max_tokens: Positive = 1024
    """Longest sample, in tokens."""

    too_long: Literal["error", "drop", "cut-left", "cut-right"] = "error"
    """What happens to a longer sample: stop, leave it out (counted and listed), or cut it on one side."""

    fully_masked: Literal["error", "drop"] = "drop"
    """What happens to a sample without a single token to learn (cutting can cause that): leave it out (counted and listed), or stop.
    No sample with one is an error always."""


class TrainConfig(ConfigModel):
    """What is trained, how long, and in what portions."""

    method: Method = "lora"
    """lora: an adapter beside the frozen weights. full: all weights, with float32 copies where they are in bfloat16."""

    engine: Literal["native", "unsloth"] = "native"
    """What loads the model and attaches the adapter. unsloth: its FastLanguageModel, on CUDA; data, steps and outputs stay the same."""

    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the rows; max_steps overrides it."""

    max_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps; 0 means as many as the epochs take."""

    rows_per_step: Positive = 8
    """Rows per optimizer step. The loss is the mean over their supervised tokens, however they are packed."""

    micro_batch_tokens: Positive | Literal["auto"] = 2048
    """Tokens packed into one forward and backward pass; memory grows with it, the result does not change. auto: what is
    predicted to be fastest of what fits into the memory (`tanren plan --fit`)."""

    attention: Literal["auto", AttentionKernel] = "auto"
    """Attention kernel. auto: the fastest that proves right on this machine. A named one that cannot run is an error. ATTN_IMPL sets it, too."""

    layers: Layers = "auto"
    """How the layers are computed. fused: ours, with fewer passes over memory, for Llama, Mistral, Qwen2 and Qwen3 with LoRA, held
    against the library's on the model before step 1; plain: the library's. auto: fused on a GPU where the model can have it; on a CPU the
    library's, with LoRA's products alone in place of PEFT's layers."""

    experts: Experts = "auto"
    """How the fused experts of a mixture are computed. grouped: ours, one product for all experts and the adapters beside the weights,
    held against the library's on the model before step 1; plain: the library's, which merges adapters into all experts in every pass.
    auto: grouped where the model can have it."""

    gradient_checkpointing: Literal[Checkpointing, "auto"] = "none"
    """Recompute activations in the backward pass instead of keeping them: none; selective (of fused layers the MLP's gate and up,
    else every second layer); full (all but a layer's input: least memory, up to a third slower). The result does not change. auto: as for
    micro_batch_tokens."""

    neftune_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Noise on the embeddings while training (NEFTune, arXiv:2310.05914), scaled by each sample's own length; usual: 5; 0 means none."""

    spike_factor: Annotated[float, Field(ge=0)] = 0.0
    """Stop, with a dump of the batch, where the loss is above this many times its running median; usual: 5; 0 means never.
    A loss or gradient that is no number always stops the run so."""

    spike_patience: Positive = 3
    """Steps in a row that must be above it."""

    log_every: Positive = 1
    """Optimizer steps between two logged lines."""

    @field_validator("gradient_checkpointing", mode="before")
    @classmethod
    def _once_a_switch(cls, value: Any) -> Any:
        if isinstance(value, bool):
            now = "full" if value else "none"
            raise ValueError(f"found {str(value).lower()}; it is no switch any more: write '{now}'")  # noqa: TRY004 (pydantic's form)
        return value


class SftCheckpointConfig(CheckpointConfig):
    """Checkpoints for resuming; one is always written on Ctrl-C and SIGTERM."""

    keep_best: bool = False
    """Keep the checkpoint with the lowest validation loss, too, however old it is."""


class SftTrackingConfig(TrackingConfig):
    """Experiment tracking beside metrics.jsonl."""

    experiment: str = "tanren-sft"
    """The MLflow experiment's name."""


class ValidationConfig(ConfigModel):
    """Loss on held-out samples while it trains: before step 1, every so many steps, at the end."""

    every_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps between two validations; 0 means none at all."""

    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after so many validations in a row that were no improvement; 0 means never."""

    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """An improvement is a loss that is lower by more than this (nats per token)."""

    restore_best: bool = False
    """Save the adapter of the best checkpoint at the end, not of the last step; needs checkpoint.keep_best."""


class EvaluationConfig(GenerationConfig):
    """Evaluation on the pack's held-out rows by greedy decoding: before and after training, and in between if asked."""

    enabled: bool = True
    """Evaluate before and after; with data.file there are no held-out rows, so it must be off."""

    every_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps between two evaluations on some of the rows while it trains; 0 means none."""

    step_rows: Positive = 16
    """How many held-out rows those take: always the same ones, drawn by the seed."""


class StageConfig(ConfigModel):
    """One stage of a recipe: what it changes of the recipe's own sections. It starts from the result of the stage before it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Its name, and that of its run directory: letters, digits, dots, dashes."""

    seed: int = 3407
    """Seed of everything random in this stage."""

    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    lora: LoraConfig = LoraConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: SftCheckpointConfig = SftCheckpointConfig()
    validation: ValidationConfig = ValidationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


class SftConfig(ConfigModel):
    """Supervised fine-tuning: model, data, training, evaluation, output."""

    name: str = "sft"
    """The recipe's name; run directories begin with it."""

    seed: int = 3407
    """Seed of everything random: order of rows, adapter initialisation, dropout."""

    model: StartConfig = StartConfig()
    task: TaskConfig = TaskConfig()
    data: DataConfig = DataConfig()
    lora: LoraConfig = LoraConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: SftCheckpointConfig = SftCheckpointConfig()
    validation: ValidationConfig = ValidationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: SftTrackingConfig = SftTrackingConfig()
    output: OutputConfig = OutputConfig()

    stages: Annotated[list[StageConfig], tyro.conf.Suppress] = []
    """Trainings one after the other, each from the one before it: `[[stages]]` with a name and `[stages.SECTION]` for what changes."""

    @field_validator("stages")
    @classmethod
    def _names_differ(cls, stages: list[StageConfig]) -> list[StageConfig]:
        names = [stage.name for stage in stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two stages have the name {twice[0]!r}; give each its own")
        return stages
