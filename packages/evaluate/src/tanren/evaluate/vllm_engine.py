"""The engine vLLM, in this process: one start for all candidates on a base; each has its weights copied on the GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tanren.common.adapted import base_of
from tanren.common.console import Console
from tanren.common.models.decoding import stop_token_ids
from tanren.evaluate.engine import Done, Draws, Prompt, Slot, text_of
from tanren.evaluate.generation import check_room

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tanren.common.vllm import Vllm

TOGETHER = 512
"""Completions that are asked for at once. What is done of them is kept when a run is interrupted; larger parts wait less often
for their longest."""


class OneVllm:
    """The one vLLM of this process: started for a base model when it is first needed, and given the weights of candidates."""

    def __init__(self, console: Console) -> None:
        """Start nothing yet."""
        self._console = console
        self._vllm: Vllm | None = None
        self._base: Any = None
        self._fitted: tuple[int, int, int] = (0, 0, 0)

    def take_over(self, model: Any, prompt_tokens: int, new_tokens: int, prompts: int, samples: int) -> Vllm:
        """Return vLLM with a model's weights, for so many prompts at once of at most so many tokens.

        Raises MachineError where there is no room for it.
        """
        from tanren.common.vllm import Vllm, fit_settings

        asked = (prompt_tokens, new_tokens, prompts * samples)
        fits = all(one <= there for one, there in zip(asked, self._fitted, strict=True))
        if self._vllm is None or self._base is not base_of(model) or not fits:
            self.close()
            fitted = fit_settings(
                model, prompt_tokens=prompt_tokens, new_tokens=new_tokens, prompts=prompts, samples=samples
            )
            self._console.line(f"vLLM: {fitted.line()}")
            with self._console.phase("start vLLM", "with empty weights; they come from the model"):
                self._vllm = Vllm(model, fitted.settings)
            self._base, self._fitted = base_of(model), asked
        # Parents change the base itself, so nothing of the last candidate is relied on.
        self._vllm.sync(model, everything=True)
        return self._vllm

    def close(self) -> None:
        """Give everything back."""
        if self._vllm is not None:
            self._vllm.close()
        self._vllm = self._base = None


class VllmEngine:
    """Generates by vLLM with a model's weights."""

    def __init__(self, one: OneVllm, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """Generate with the weights of `model`."""
        self._one, self._model, self._tokenizer = one, model, tokenizer
        self._stops = tuple(stop_token_ids(model, tokenizer))

    def generate(
        self,
        prompts: Sequence[Prompt],
        wanted: frozenset[Slot],
        draws: Draws,
        done: Done,
        say: Callable[[str], None],
    ) -> None:
        """Generate part by part, each prompt with all its samples; a prompt's draws have seeds of their own."""
        sampling = draws.sampling
        check_room(self._model, prompts, sampling.max_new_tokens)
        left = [index for index in range(len(prompts)) if any(slot.prompt == index for slot in wanted)]
        size = max(1, TOGETHER // draws.samples)
        asked = replace(sampling, stop_token_ids=self._stops)
        longest = max(len(prompt.token_ids) for prompt in prompts)
        vllm = self._one.take_over(
            self._model, longest, sampling.max_new_tokens, min(size, len(prompts)), draws.samples
        )
        for first in range(0, len(left), size):
            part = left[first : first + size]
            say(f"{len(part)} prompts at once, {len(left) - first} left")
            seeds = None if sampling.greedy else [_seed(draws.seed, prompts[index]) for index in part]
            found = vllm.generate([prompts[index].token_ids for index in part], draws.samples, asked, seeds)
            done(
                [
                    (Slot(index, number), text_of(self._tokenizer, prompts[index], one))
                    for index, made in zip(part, found, strict=True)
                    for number, one in enumerate(made)
                ]
            )


def _seed(seed: int, prompt: Prompt) -> int:
    """Return the seed of a prompt's draws (30 bits: each sample adds its number): the same whatever else is asked."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt.row.id}".encode()).digest()[:4], "big") >> 2
