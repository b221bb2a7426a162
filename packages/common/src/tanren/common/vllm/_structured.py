"""Completions of a given form by vLLM: with our own masks, not its own.

vLLM's own structured output masks the logits before their log-probabilities are taken (0.25.1: `apply_grammar_bitmask`, then
`_sample`), which would then be those of the masked distribution, not the model's. A logits processor comes after they are taken, so
that they are the model's; and its grammar is the one that other engines use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tanren.common.grammar import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher


@dataclass
class Form:
    """The grammar of the completions that are being generated; None: of any form."""

    grammar: Grammar | None = None


@dataclass
class Followed:
    """One completion that vLLM is writing."""

    grammar: Grammar
    matcher: LLMatcher
    written: list[int]
    """vLLM's own list, which grows."""
    seen: int = 0


def masked(logits: torch.Tensor, rows: dict[int, Followed]) -> torch.Tensor:
    """Follow the completions of some rows of the logits, (rows, words), by what was written since; mask these rows in place."""
    if not rows:
        return logits
    followed = list(rows.values())
    grammar = followed[0].grammar
    while behind := [one for one in followed if one.seen < len(one.written)]:
        grammar.advance([one.matcher for one in behind], [one.written[one.seen] for one in behind])
        for one in behind:
            one.seen += 1
    places = torch.tensor(list(rows), device=logits.device)
    logits[places] = grammar.mask(logits[places], [one.matcher for one in followed])
    return logits


def processor_of(form: Form) -> type:
    """Return the class of a logits processor that keeps new completions to the form that is asked for when they begin."""
    from vllm.v1.sample.logits_processor import LogitsProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates

    class GrammarProcessor(LogitsProcessor):  # type: ignore[misc,unused-ignore]
        """Masks each step's logits."""

        def __init__(self, *_: Any) -> None:
            """Begin with no completion."""
            self._rows: dict[int, Followed] = {}

        def is_argmax_invariant(self) -> bool:
            """Say that the most probable word may change."""
            return False

        def update_state(self, batch_update: Any) -> None:
            """Take note of completions that came, went and moved in the batch."""
            process_dict_updates(self._rows, batch_update, lambda _params, _prompt, written: self._begin(written))

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            """Return the logits with -inf for what cannot come next."""
            return masked(logits, self._rows)

        def _begin(self, written: list[int]) -> Followed | None:
            grammar = form.grammar
            return None if grammar is None else Followed(grammar, grammar.begin(), written)

    return GrammarProcessor
