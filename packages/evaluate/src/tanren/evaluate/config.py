"""The configuration of evaluate. Its docstrings are the help, the JSON schema and the reference page."""

from __future__ import annotations

from pathlib import Path

from tanren.common.config import ConfigModel, GenerationConfig, ModelConfig, OutputConfig, TaskConfig


class EvaluateConfig(ConfigModel):
    """Evaluation of a base model, and of an adapter on it, on a task pack's held-out rows."""

    name: str = "evaluate"
    """The recipe's name; run directories begin with it."""

    adapter: Path | None = None
    """A trained adapter (PEFT format) to compare with the base model; not set means the base model alone."""

    allow_other_template: bool = False
    """Evaluate an adapter although it was trained with another chat template than the model's."""

    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    generation: GenerationConfig = GenerationConfig()
    output: OutputConfig = OutputConfig()
