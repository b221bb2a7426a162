"""Chat rendering: conversations to text, tokens and a loss mask, by character offsets of the rendered text.

The rendered text of prompt and answer is one string. Which characters the model learns is decided on that string: the
answer and the end-of-turn token after it. A token is learned if it lies inside. Tokens are never searched: the same
words tokenise differently in another context.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tanren.common.errors import UserError
from tanren.common.task_contract import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Sample:
    """A rendered and tokenised row: `input_ids` and `loss_mask` have one entry per token."""

    row_id: str
    input_ids: list[int]
    loss_mask: list[bool]
    prompt_hash: str

    @property
    def supervised(self) -> int:
        """The number of tokens that the model learns; the first token is none: nothing stands before it."""
        return sum(self.loss_mask[1:])


def render_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> str:
    """Return the text that a model is given: the turns before the answer and the opening of the answer.

    Training and evaluation both call this, so the prefix of a training sample *is* the prompt of evaluation.
    """
    return _render(tokenizer, prompt, opening=True)


def prompt_hash(text: str) -> str:
    """Return a short hash of a rendered prompt: it proves that two texts are the same."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a short hash of the tokenizer's chat template."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()[:16]


def supervised_span(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], where: str
) -> tuple[str, int, int]:
    """Render a conversation that ends with an assistant turn; return the text and the learned characters' start and end.

    The span is the last answer with its end-of-turn token; what a template writes behind that (a newline) is not
    learned, for generation has stopped by then. Raises UserError, naming `where`, if the template renders no
    assistant turn or does not begin a conversation with its own prompt.
    """
    prompt = render_prompt(tokenizer, messages[:-1])
    text = _render(tokenizer, messages, opening=False)
    answer = messages[-1].content
    if not text.startswith(prompt):
        raise UserError(
            f"{where}: the chat template writes the conversation differently from its own prompt (they part at character "
            f"{_parting(text, prompt)}), so training would not see what evaluation asks; use a template whose prompt is a prefix"
        )
    start = len(prompt)
    at = text.find(answer.strip(), start)
    if at < 0:
        raise UserError(
            f"{where}: the chat template renders no assistant turn (the answer is not in the rendered text); "
            "expected a template that writes the messages of the role 'assistant'"
        )
    end_of_turn = str(tokenizer.eos_token)
    closing = text.find(end_of_turn, at + len(answer.strip()))
    return text, start, closing + len(end_of_turn) if closing >= 0 else len(text)


def make_sample(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], row_id: str, where: str) -> Sample:
    """Render, tokenise and mask one conversation (see `supervised_span` for what is learned).

    Prompt and answer are tokenised apart, so that the sample begins with exactly the tokens that evaluation feeds: in
    one piece, an answer that starts with a space would melt into the prompt's last token.
    Raises UserError, naming `where`, for an answer with a character that the tokenizer cannot write.
    """
    text, start, end = supervised_span(tokenizer, messages, where)
    prompt_ids: list[int] = tokenizer(text[:start], add_special_tokens=False)["input_ids"]
    rest = tokenizer(text[start:], add_special_tokens=False, return_offsets_mapping=True)
    mask = [last <= end - start for _, last in rest["offset_mapping"]]
    _refuse_unknown(tokenizer, text[start:end], rest["input_ids"], rest["offset_mapping"], where)
    return Sample(
        row_id, [*prompt_ids, *rest["input_ids"]], [False] * len(prompt_ids) + mask, prompt_hash(text[:start])
    )


def _refuse_unknown(
    tokenizer: PreTrainedTokenizerBase, answer: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], where: str
) -> None:
    """Refuse an answer that would be learned as the unknown token (SmolLM2's vocabulary lacks 21 of the 256 bytes)."""
    for token, (first, last) in zip(ids, offsets, strict=True):
        if token == tokenizer.unk_token_id and last <= len(answer) and answer[first:last] != tokenizer.unk_token:
            raise UserError(
                f"{where}: the tokenizer has no token for {answer[first:last]!a} in the answer: the model would learn "
                f"{tokenizer.unk_token} instead; remove that character or use another model"
            )


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, opening: bool) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template; expected an instruction-tuned model"
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opening)
    except TemplateError as error:
        roles = [message.role for message in messages]
        raise UserError(f"the chat template refuses a conversation with the roles {roles}: {error}") from None
    return str(text)


def _parting(first: str, second: str) -> int:
    return next(
        (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
