"""Sections of a training that both trainers have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ._model import ConfigModel

Positive = Annotated[int, Field(ge=1)]


class OptimConfig(ConfigModel):
    """AdamW and its schedule."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """AdamW, or bitsandbytes' with 8-bit states (CUDA only); paged: states that move to the CPU's memory when the GPU's is full."""

    lr: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up."""

    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the rate rises from 0."""

    min_lr_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Where cosine and linear end, as a share of the peak rate."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of the trained matrices (of an adapter: A and B); norms, biases and embeddings do not decay."""

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the mean of gradients."""

    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the mean of squared gradients."""

    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 turns clipping off."""


class CheckpointConfig(ConfigModel):
    """Checkpoints for resuming; one is always written on Ctrl-C and SIGTERM."""

    every_steps: Annotated[int, Field(ge=0)] = 50
    """Optimizer steps between two checkpoints; 0 means none but the forced ones."""

    keep: Positive = 2
    """Newest checkpoints that are kept."""


class TrackingConfig(ConfigModel):
    """Experiment tracking beside metrics.jsonl."""

    mlflow: bool = True
    """Log to MLflow."""

    mlflow_uri: str | None = None
    """Tracking address; not set means a SQLite file, mlflow.db, in the runs folder."""

    experiment: str = "tanren"
    """The MLflow experiment's name."""
