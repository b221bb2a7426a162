"""The flags that concern a model alone, checked together."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import tyro

from tanren.common.config import Quantisation
from tanren.common.errors import UserError

# Of several samples, where nothing else is asked for: what the controlled runs before this product were drawn with.
TEMPERATURE, TOP_P = 0.8, 0.95


@dataclass(frozen=True)
class ModelFlags:
    """What is said of a model that decides; None: nothing was."""

    samples: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Answers to each prompt, of which the vote makes one decision. Not set: one, greedy."""

    vote: Annotated[Literal["majority"] | None, tyro.conf.arg(metavar="majority")] = None
    """How several samples decide, set or not: the action that most have, the smallest of those that tie; one without an action does not vote."""

    temperature: Annotated[float | None, tyro.conf.arg(metavar="T")] = None
    """Above 0: answers are drawn. Not set: 0 (greedy) for one sample, 0.8 for several."""

    top_p: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """Of the likeliest tokens, as many as reach this share take part, where answers are drawn. Not set: 0.95."""

    max_new_tokens: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Longest answer, in tokens. Not set: 512."""

    batch_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Prompts generated together. Not set: 32."""

    prompt: Annotated[Literal["full", "short"] | None, tyro.conf.arg(metavar="full|short")] = None
    """Form of the prompt. Not set: as the run that trained the model has it, else full."""

    base: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """The base model of an adapter. Not set: the one that its run names."""

    chat_template: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """Another chat template than the model's own: a name of those that its tokenizer carries, or a file (Jinja)."""

    allow_other_template: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on although the model was trained with another chat template."""

    quantisation: Annotated[Quantisation | None, tyro.conf.arg(metavar="none|nf4|int8|fp8")] = None
    """Of the model's linear layers. Not set: none, or as the adapter was trained."""

    device: Annotated[Literal["auto", "cpu", "cuda"] | None, tyro.conf.arg(metavar="auto|cpu|cuda")] = None
    """Where the model runs. Not set: auto."""

    def given(self) -> list[str]:
        """Return the flags that were given."""
        return [
            f"--{field.name.replace('_', '-')}"
            for field in fields(self)
            if getattr(self, field.name) not in (None, False)
        ]

    def arguments(self) -> list[str]:
        """Return the flags that were given, each with its value."""
        said = []
        for flag in self.given():
            value = getattr(self, flag.removeprefix("--").replace("-", "_"))
            said += [flag] if value is True else [flag, str(value)]
        return said

    @property
    def drawn(self) -> tuple[float, float] | None:
        """Temperature and top_p with which answers are drawn; None: greedy."""
        temperature = self.temperature if self.temperature is not None else TEMPERATURE * (self.count > 1)
        return (temperature, self.top_p if self.top_p is not None else TOP_P) if temperature > 0 else None

    @property
    def count(self) -> int:
        """Samples for each decision."""
        return 1 if self.samples is None else self.samples

    def generation(self) -> dict[str, int]:
        """Return the settings of generation."""
        return {"max_new_tokens": self.max_new_tokens or 512, "batch_size": self.batch_size or 32}

    def check(self) -> None:
        """Raise UserError for a value out of range, and for one that has no effect beside the others."""
        for name in ("samples", "max_new_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: expected at least 1")
        if self.temperature is not None and self.temperature < 0:
            raise UserError(f"--temperature {self.temperature:g}: expected 0 (greedy) or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p:g}: expected above 0, at most 1")
        if self.count > 1 and self.drawn is None:
            raise UserError(f"--samples {self.samples}: greedy answers are all the same; leave --temperature 0 out")
        if self.vote is not None and self.count == 1:
            raise UserError("--vote has no effect on one sample; ask for more with --samples N, or leave it out")
        if self.top_p is not None and self.drawn is None:
            raise UserError("--top-p has no effect on greedy answers; draw them with --temperature T, or leave it out")
