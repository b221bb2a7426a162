"""Generation by whatever a trainer generates with: it has the weights already, and answers greedily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tanren.common.completions import Answers
from tanren.common.models.decoding import stop_token_ids
from tanren.evaluate.engine import Done, Draws, Prompt, Slot, text_of
from tanren.evaluate.generation import check_room

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class AskedEngine:
    """Hands prompts on, all at once."""

    def __init__(self, answers: Answers, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Ask `answers`, which has the weights of `model`."""
        self._answers, self._model, self._tokenizer = answers, model, tokenizer

    def generate(
        self,
        prompts: Sequence[Prompt],
        wanted: frozenset[Slot],
        draws: Draws,
        done: Done,
        say: Callable[[str], None],
    ) -> None:
        """Generate one completion of each prompt that is left."""
        assert draws.sampling.greedy, "a trainer evaluates greedily"
        assert draws.samples == 1
        check_room(self._model, prompts, draws.sampling.max_new_tokens)
        left = [index for index in range(len(prompts)) if Slot(index, 0) in wanted]
        asked = replace(draws.sampling, stop_token_ids=tuple(stop_token_ids(self._model, self._tokenizer)))
        say(f"{len(left)} prompts at once")
        made = self._answers([prompts[index].token_ids for index in left], asked)
        done(
            [
                (Slot(index, 0), text_of(self._tokenizer, prompts[index], one))
                for index, one in zip(left, made, strict=True)
            ]
        )
