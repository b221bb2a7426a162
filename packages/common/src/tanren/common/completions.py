"""What is asked of an engine that generates, and what it gives: one form for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Tokens = Sequence[int]


@dataclass(frozen=True)
class Structured:
    """The form of a completion."""

    kind: Literal["json_schema", "regex", "choices"]
    text: str
    """The schema as JSON; the expression, which a whole completion matches; the choices as a JSON list."""


@dataclass(frozen=True)
class Sampling:
    """How words are drawn.

    Words that `structured` does not allow are left out, logits are divided by `temperature`, then top_k, top_p and min_p leave
    words out, in this order.
    """

    max_new_tokens: int
    temperature: float = 1.0
    """0: the most probable word, always."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop_token_ids: tuple[int, ...] = ()
    """Each ends a completion, and belongs to it."""
    structured: Structured | None = None
    """The form that every completion has; it ends where the form is complete. None: any."""

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0


@dataclass(frozen=True)
class Completion:
    """What a model wrote."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    """Of each token in nats, under the sampling model at temperature 1 with all words: not under the distribution that
    structured, temperature, top_p, top_k and min_p make of it."""
    finish_reason: Literal["stop", "length"]
    """stop: it ends with a stop token; length: it was truncated."""


Answers = Callable[[Sequence[Tokens], Sampling], list[Completion]]
"""Gives one completion of each prompt, by weights that stand ready somewhere."""
