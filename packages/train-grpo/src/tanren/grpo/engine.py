"""What generates completions: the contract between the loop and an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tanren.common.completions import Answers, Completion, Sampling, Structured, Tokens
from tanren.grpo.config import RolloutConfig


def sampling_of(config: RolloutConfig, stop_token_ids: Sequence[int], structured: Structured | None = None) -> Sampling:
    """Return the sampling of a recipe."""
    return Sampling(
        config.max_new_tokens,
        config.temperature,
        config.top_p,
        config.top_k,
        config.min_p,
        tuple(stop_token_ids),
        structured,
    )


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


def answers_of(engine: Engine, model: Any) -> Answers:
    """Return how an engine answers an evaluation: by the weights that `model` has when it is asked, awake for as long as it takes."""

    def answer(prompts: Sequence[Tokens], sampling: Sampling) -> list[Completion]:
        engine.wake()
        engine.sync(model)
        found = [one for (one,) in engine.generate(prompts, 1, sampling)]
        engine.sleep()
        return found

    return answer
