"""Rows to prompts: rendered once, by the builder that evaluation uses, and tokenised."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tanren.common.chat import prompt_hash, render_prompt, special_tokens_of_template
from tanren.common.errors import UserError
from tanren.common.task_contract import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """What a model is asked."""

    row: Row
    token_ids: tuple[int, ...]
    hash: str
    """Of the rendered text: evaluation records the same of the same prompt."""


def make_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, max_tokens: int, positions: int | None, new_tokens: int
) -> list[Prompt]:
    """Render and tokenise the prompts of rows.

    `positions` are those that the model has (None: no limit), `new_tokens` the most that is generated. Raises UserError, naming
    the row, for a row of plain text, a prompt that is rendered already, and one that is too long.
    """
    special = special_tokens_of_template(tokenizer)
    made = []
    for row in rows:
        _refuse(row, special)
        text = render_prompt(tokenizer, row.prompt)
        tokens = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(tokens) > max_tokens:
            raise UserError(
                f"row {row.id}: its prompt has {len(tokens)} tokens, and rollout.max_prompt_tokens is {max_tokens}; raise it, or shorten the row"
            )
        if positions is not None and len(tokens) + new_tokens > positions:
            raise UserError(
                f"row {row.id}: its prompt of {len(tokens)} tokens and {new_tokens} new ones exceed the model's {positions} "
                "positions; lower rollout.max_new_tokens or shorten the row"
            )
        made.append(Prompt(row, tokens, prompt_hash(text)))
    return made


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """Return a hash of every prompt's tokens, in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr(prompt.token_ids).encode())
    return digest.hexdigest()


def difficulties_of(prompts: Sequence[Prompt], key: str | None) -> list[float]:
    """Return the number that each prompt's row has under a key of its metadata; none without a key.

    Raises UserError, naming the row, where there is no number.
    """
    if key is None:
        return []
    found = [prompt.row.metadata.get(key) for prompt in prompts]
    for prompt, value in zip(prompts, found, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            known = sorted(name for name, one in prompt.row.metadata.items() if isinstance(one, int | float))
            raise UserError(
                f"data.curriculum = {key!r}: row {prompt.row.id} has {value!r} there, expected a number; its metadata has the numbers "
                f"{', '.join(known) or 'of none'}"
            )
    return [float(value) for value in found if value is not None]


def _refuse(row: Row, special: Sequence[str]) -> None:
    if row.segments:
        raise UserError(f"row {row.id} is plain text in segments, without a question; GRPO needs a prompt")
    for number, message in enumerate(row.prompt, start=1):
        found = [token for token in special if token in message.content]
        if found:
            raise UserError(
                f"row {row.id}: turn {number} ({message.role}) holds {', '.join(found)}, which the chat template itself writes: the "
                "prompt is rendered already, and would be rendered twice; give its turns as messages with a role and content"
            )
