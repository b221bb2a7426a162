"""What generates completions: the contract between the loop and an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tanren.grpo.config import RolloutConfig

Tokens = Sequence[int]


@dataclass(frozen=True)
class Sampling:
    """How words are drawn: logits are divided by `temperature`, then top_k, top_p and min_p leave words out, in this order."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop_token_ids: tuple[int, ...] = ()
    """Each ends a completion, and belongs to it."""

    @classmethod
    def of(cls, config: RolloutConfig, stop_token_ids: Sequence[int]) -> Sampling:
        """Return the sampling of a recipe."""
        return cls(
            config.max_new_tokens,
            config.temperature,
            config.top_p,
            config.top_k,
            config.min_p,
            tuple(stop_token_ids),
        )


@dataclass(frozen=True)
class Completion:
    """What a model wrote."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    """Of each token in nats, under the sampling model at temperature 1 with all words: not under the distribution that
    temperature, top_p, top_k and min_p make of it."""
    finish_reason: Literal["stop", "length"]
    """stop: it ends with a stop token; length: it was truncated."""


class Engine(Protocol):
    """Generates with the weights that `sync` gave it last. The loop calls, in each step: wake, sync, generate, sleep."""

    name: str

    def wake(self) -> None:
        """Take back what `sleep` gave up. Raises MachineError where there is no memory for it."""

    def sync(self, model: Any) -> None:
        """Take over the weights of the model that is trained."""

    def generate(self, prompts: Sequence[Tokens], n: int, sampling: Sampling) -> list[list[Completion]]:
        """Return `n` completions of each prompt, drawn independently."""

    def sleep(self) -> None:
        """Give up the memory that training can use."""

    def close(self) -> None:
        """Give up everything."""

    def state(self) -> Mapping[str, Any]:
        """Return what draws depend on besides the weights: tensors and plain values, for a checkpoint."""

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
