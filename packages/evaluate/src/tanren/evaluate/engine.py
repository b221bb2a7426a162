"""What generates completions for evaluation: the contract between the evaluator and an engine.

An engine is given prompts as the tokens that our own builder made, and hands completions back as they come. Where the
weights are, and which of them belong to which candidate, is its backend's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tanren.common.chat import prompt_hash, render_prompt
from tanren.common.completions import Completion, Sampling
from tanren.common.task_contract import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tanren.evaluate.roster import Candidate


@dataclass(frozen=True)
class Draws:
    """What is asked for each prompt: how words are drawn, how many completions, and from which seed they follow."""

    sampling: Sampling
    samples: int = 1
    """Completions of each prompt, drawn independently."""
    seed: int = 0

    @classmethod
    def greedy(cls, max_new_tokens: int) -> Draws:
        """Return one completion of the most probable words."""
        return cls(Sampling(max_new_tokens, temperature=0.0))


@dataclass(frozen=True)
class Prompt:
    """The rendered prompt of a row."""

    row: Row
    text: str
    token_ids: tuple[int, ...]
    """Text and tokens are empty where a server renders the prompt itself."""
    hash: str


class Slot(NamedTuple):
    """The place of one completion: the number of its prompt, and of the sample (both from 0)."""

    prompt: int
    sample: int


@dataclass(frozen=True)
class CompletionText:
    """What a model wrote, as text: all that a server tells of it.

    `tanren.common.completions.Completion` has the tokens themselves with their log-probabilities, which training needs.
    """

    text: str
    finish_reason: str
    """stop: it ended by itself; length: it was cut at max_new_tokens; else what a server said."""
    prompt_tokens: int
    completion_tokens: int


def text_of(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, made: Completion) -> CompletionText:
    """Return a completion's text, without special tokens."""
    text = tokenizer.decode(list(made.token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return CompletionText(str(text), made.finish_reason, len(prompt.token_ids), len(made.token_ids))


Done = Callable[[Sequence[tuple[Slot, CompletionText]]], None]
"""Takes completions as they come."""


class Engine(Protocol):
    """Generates with the weights of one candidate."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        wanted: frozenset[Slot],
        draws: Draws,
        done: Done,
        say: Callable[[str], None],
    ) -> None:
        """Hand a completion for every slot of `wanted` to `done`, in any order, and tell `say` what it is at.

        The others (of `draws.samples` for each prompt) are there already, from before an interruption. What it makes
        for a slot does not depend on which others are wanted, as far as the engine can promise that. A slot that is not
        wanted may be handed over all the same.
        """


class Backend(Protocol):
    """Holds the weights of all candidates, or knows where they are served."""

    def prepare(self) -> None:
        """Load and check what can be before there is a run directory: what is refused leaves nothing behind."""

    def order(self) -> Sequence[Candidate]:
        """Return the candidates in the order in which they are best evaluated."""

    def prompts(self, candidate: Candidate, rows: Sequence[Row]) -> list[Prompt]:
        """Render the rows for a candidate, in their order."""

    def serving(self, candidate: Candidate) -> AbstractContextManager[Engine]:
        """Give the engine with a candidate's weights."""

    def close(self) -> None:
        """End what generates; nothing is asked for afterwards."""

    def environment(self) -> Mapping[str, Any]:
        """Return what `environment.json` records of it."""

    def describe(self, candidate: Candidate) -> Mapping[str, Any]:
        """Return what `candidates.json` records of a candidate."""


def prompts_of(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[Prompt]:
    """Render and tokenise the rows' prompts, as training does."""
    texts = [render_prompt(tokenizer, row.prompt) for row in rows]
    return [
        Prompt(row, text, tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), prompt_hash(text))
        for row, text in zip(rows, texts, strict=True)
    ]
