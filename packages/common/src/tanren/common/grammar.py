"""Which words may come next in a completion of a given form: JSON of a schema, an expression, one of some texts.

The library llguidance follows each completion through a grammar and says which words of the vocabulary go on in it. Every
engine uses it through this module, so that all sample alike, and it is imported where a form is asked for only.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from tanren.common.completions import Sampling, Structured
from tanren.common.errors import MachineError, UserError

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher
    from transformers import PreTrainedTokenizerBase


def check_structured(structured: Structured, name: str) -> tuple[str, ...]:
    """Return warnings about a form, which the recipe calls `name`.

    Raises UserError where it is none, or has no meaning for llguidance, or that is not installed.
    """
    if find_spec("llguidance") is None:
        raise UserError(
            f"{name} needs llguidance, which is not installed here: install this environment anew (./pixiw run sync), or remove the section"
        )
    from llguidance import LLMatcher

    wrong, said = LLMatcher.validate_grammar_with_warnings(_written(structured))
    if wrong:
        raise UserError(f"{name}: {_short(said[0])}")
    return tuple(f"{name}: {one}" for one in said)


class Grammar:
    """What may come next in completions of one form, for one model and its stop tokens."""

    def __init__(
        self, structured: Structured, tokenizer: PreTrainedTokenizerBase, words: int, stop_token_ids: Sequence[int]
    ) -> None:
        """Compile it for logits of `words` columns. Raises UserError for a tokenizer or a form that llguidance cannot take."""
        from llguidance import LLExecutor, LLMatcher
        from llguidance.hf import from_tokenizer
        from transformers import PreTrainedTokenizerFast

        assert stop_token_ids, "a completion of a form ends with a stop token"
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise UserError(
                f"completions cannot be given a form: the model's tokenizer is a {type(tokenizer).__name__}, and llguidance reads those "
                "of the library tokenizers only (tokenizer.json); remove rollout.structured"
            )
        known = from_tokenizer(tokenizer, max(words, len(tokenizer)), stop_token_ids[0])
        self._words, self._stops = known.vocab_size, list(stop_token_ids)
        self._first = LLMatcher(known, _written(structured), log_level=0)
        if self._first.is_error():
            raise UserError(f"completions cannot have that form: {_short(self._first.get_error())}")
        self._executor = LLExecutor()

    def begin(self) -> LLMatcher:
        """Return what follows a new completion."""
        return self._first.deep_copy()

    def mask(self, logits: torch.Tensor, matchers: Sequence[LLMatcher]) -> torch.Tensor:
        """Return logits, (rows, words), with -inf for each word that cannot come next; `matchers` follow the rows.

        A stop token can come where the form may end, and nothing else where it must. Raises MachineError where llguidance gives up.
        """
        import numpy as np
        import torch
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

        bits = allocate_token_bitmask(len(matchers), self._words)
        fill_next_token_bitmask_par(self._executor, [(one, row) for row, one in enumerate(matchers)], bits)
        _check(matchers)
        packed = torch.from_numpy(bits.view(np.uint8)).to(logits.device)
        allowed = ((packed[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=logits.device)) & 1).flatten(1)
        allowed[:, self._stops] = allowed[:, self._stops[:1]]  # llguidance knows one: the others are worth the same
        return logits.masked_fill(allowed[:, : logits.shape[1]] == 0, -torch.inf)

    def advance(self, matchers: Sequence[LLMatcher], tokens: Sequence[int]) -> None:
        """Follow each completion by a word that its mask allowed. Raises MachineError where llguidance gives up."""
        for matcher, token in zip(matchers, tokens, strict=True):
            if token not in self._stops:  # after its end there is nothing to follow
                matcher.consume_token(token)
        _check(matchers)


class Grammars:
    """Compiles the grammar of what is asked for: once for all that is asked alike."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: int) -> None:
        """Compile for a tokenizer, and for logits of `words` columns."""
        self._tokenizer, self._words = tokenizer, words
        self._made: dict[tuple[Structured, tuple[int, ...]], Grammar] = {}

    def of(self, structured: Structured, stop_token_ids: tuple[int, ...]) -> Grammar:
        """Return the grammar of a form."""
        asked = (structured, stop_token_ids)
        if asked not in self._made:
            self._made[asked] = Grammar(structured, self._tokenizer, self._words, stop_token_ids)
        return self._made[asked]


def grammar_of(sampling: Sampling, grammars: Grammars | None) -> Grammar | None:
    """Return the grammar that a sampling asks for, if it asks for one."""
    if sampling.structured is None:
        return None
    assert grammars is not None, "an engine that is asked for a form was opened with grammars"
    return grammars.of(sampling.structured, sampling.stop_token_ids)


def _written(structured: Structured) -> str:
    """Return the grammar as llguidance reads it."""
    from llguidance import grammar_from

    kind: Literal["json_schema", "regex", "choice"] = "choice" if structured.kind == "choices" else structured.kind
    return str(grammar_from(kind, structured.text))


def _check(matchers: Sequence[LLMatcher]) -> None:
    for one in matchers:
        if one.is_error():
            raise MachineError(f"a completion could not be kept to its form: {_short(one.get_error())}")


def _short(message: str) -> str:
    """Return what llguidance says without the state of its parser."""
    return message.partition("<state>")[0].strip()
