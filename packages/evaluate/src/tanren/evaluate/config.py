"""The configuration of evaluate. Its docstrings are the help, the JSON schema and the reference page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import tyro
from pydantic import Field, model_validator

from tanren.common.config import ConfigModel, GenerationConfig, ModelConfig, OutputConfig, RequestsConfig, TaskConfig

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Of a candidate: it is the name of its folder, too."""


class CandidateConfig(ConfigModel):
    """One candidate beside the base model: an adapter on it, or a whole model. Either `adapter` or `model` is set (or, with the engine server,
    `served` alone)."""

    name: Annotated[str, Field(pattern=NAME)]
    """Its name in tables, and that of its folder: letters, digits, dots, dashes."""

    adapter: str | None = None
    """A trained adapter on the base model, with all that was merged below it: its folder (PEFT format), a finished run directory, or
    `latest:NAME`."""

    model: str | None = None
    """A whole model: a folder (a merged adapter, a run of method full), `builtin:NAME` or a hub id."""

    revision: str | None = None
    """Branch, tag or commit of a hub model."""

    served: str | None = None
    """With the engine server: the name under which it is served. Not set: what `model` says, for an adapter `name`. Set alone: a model
    that reads the base model's prompts."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        given = [name for name in ("adapter", "model") if getattr(self, name) is not None]
        if len(given) == 2 or (not given and self.served is None):
            raise ValueError(
                f"candidate {self.name!r}: set either adapter or model; found {' and '.join(given) or 'neither'}"
            )
        if self.revision is not None and self.model is None:
            raise ValueError(f"candidate {self.name!r}: revision is of a hub model, and model is not set; leave it out")
        return self


class EvaluationGenerationConfig(GenerationConfig):
    """How completions are generated: greedy unless `temperature` is set."""

    engine: Literal["transformers", "vllm", "server"] = "transformers"
    """What generates: transformers in this process, vLLM in this process (on a GPU; its weights stand beside the model's), or a server with
    OpenAI's interface."""

    server: str | None = None
    """The server's address, with the path before /completions: `http://127.0.0.1:8000/v1`."""

    samples: Annotated[int, Field(ge=1)] = 1
    """Completions of each prompt. Of several, pass@k and the majority vote are scored too; they need a temperature."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: greedy. Above: tokens are drawn from logits divided by it."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the likeliest tokens, as many as reach this share take part, where tokens are drawn."""

    seed: int = 0
    """Of what is drawn, and of the split of `selection`."""

    selection: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the items on which the best candidate is chosen; it is reported on the others. 0: nothing is chosen."""


class EvaluationRequestsConfig(RequestsConfig):
    """How the engine server is asked."""

    model: str | None = None
    """The name under which the base model is served. Not set: `model.name`."""

    api: Literal["completions", "text", "chat"] = "completions"
    """completions: the rendered prompt as tokens, so that the model reads exactly what it read in training; text: the same as text, for
    servers that take no tokens; chat: the turns, and the server renders them with a template of its own."""


class EvaluateConfig(ConfigModel):
    """Evaluation of a base model and of other candidates, on the same held-out rows of a task pack."""

    name: str = "evaluate"
    """The recipe's name; run directories begin with it."""

    base: bool = True
    """Evaluate the base model (`[model]`) itself, as the candidate `base`."""

    candidates: Annotated[list[CandidateConfig], tyro.conf.Suppress] = []
    """What is evaluated beside it: tables `[[candidates]]`; on the command line `--candidate [NAME=]WHAT`, once for each."""

    tasks: Path | None = None
    """A file of tasks in place of the pack's held-out rows: an outside benchmark's JSON list, where the pack reads one, or a tasks.jsonl."""

    rank_by: str | None = None
    """What candidates are ranked and chosen by: `correct`, `valid`, or a mode of the pack (`lenient` of structured). Not set: correct where every
    item can be compared with something, else valid."""

    allow_other_template: bool = False
    """Evaluate a candidate although it was trained with another chat template than its tokenizer's, and compare candidates whose prompts differ."""

    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    generation: EvaluationGenerationConfig = EvaluationGenerationConfig()
    requests: EvaluationRequestsConfig = EvaluationRequestsConfig()
    output: OutputConfig = OutputConfig()
