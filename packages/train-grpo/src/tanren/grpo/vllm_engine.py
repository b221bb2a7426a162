"""Generation by vLLM on the trainer's own GPU: held against the trainer before step 1, and whenever it has woken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tanren.common.completions import Completion, Sampling, Tokens
from tanren.common.grammar import Grammars
from tanren.common.vllm import Settings, Vllm
from tanren.grpo.following import KnownPrompt


class VllmEngine:
    """vLLM with the merged weights of the model that is trained."""

    name = "vllm"

    def __init__(self, model: Any, settings: Settings, known: Tokens, grammars: Grammars | None = None) -> None:
        """Start vLLM for `model`; `known` is the prompt that both score, `grammars` are for completions of a given form.

        Raises MachineError where it does not follow the trainer.
        """
        self._vllm = Vllm(model, settings, grammars)
        self._known = KnownPrompt(known, self._vllm.score)
        try:
            self.proof = self._known.prove(model, self._vllm.sync)
        except BaseException:
            self._vllm.close()
            raise
        self._vllm.sleep()

    def wake(self) -> None:
        """Take back the memory that `sleep` gave up."""
        self._vllm.wake()

    def sync(self, model: Any) -> None:
        """Take over the weights, and see that they are the trainer's."""
        self._vllm.sync(model)
        self._known.check(model)

    def generate(self, prompts: Sequence[Tokens], n: int, sampling: Sampling) -> list[list[Completion]]:
        """Return `n` completions of each prompt, drawn independently."""
        return self._vllm.generate(prompts, n, sampling)

    def sleep(self) -> None:
        """Give up the memory that training can use, as much as vllm.sleep_level says."""
        self._vllm.sleep()

    def close(self) -> None:
        """Give up everything."""
        self._vllm.close()

    def state(self) -> Mapping[str, Any]:
        """Return nothing: vLLM draws by the random states of this process, which a checkpoint has."""
        return {}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Take up nothing."""
