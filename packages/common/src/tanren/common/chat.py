"""Chat rendering: conversations to text, tokens and a loss mask, by character offsets of the rendered text.

The rendered text of prompt and answer is one string. Which characters the model learns is decided on that string: the
answer and the end-of-turn token after it. A token is learned if it lies inside. Tokens are never searched: the same
words tokenise differently in another context.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Sample:
    """A rendered and tokenised row: `input_ids` and `loss_mask` have one entry per token."""

    row_id: str
    input_ids: list[int]
    loss_mask: list[bool]
    prompt_hash: str
    markers: tuple[int, ...] = ()
    """How many lines of each learned answer begin with a marker."""

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


@dataclass(frozen=True)
class Learned:
    """Which part of a conversation is learned."""

    turns: Literal["last", "all"] = "last"
    """Of the assistant's turns."""
    answer: Literal["whole", "after_marker", "from_marker"] = "whole"
    """What of an answer: all of it, or what comes after its marker, or the marker and what comes after it."""
    markers: tuple[str, ...] = ()
    """Words that stand at the beginning of a line, between the reasoning and the result."""


WHOLE_LAST_TURN = Learned()
MARKERS = ("Output:", "OUTPUT:", "Final:", "Answer:", "Result:", "Response:")
"""What usually stands between reasoning and result."""


@dataclass(frozen=True)
class Rendered:
    """A row as text, and where in it the model learns."""

    text: str
    turns: tuple[tuple[int, int], ...]
    """Start and end of each learned turn's answer, end-of-turn token included, in characters; none of plain text."""
    spans: tuple[tuple[int, int], ...]
    """What is learned, in order."""
    markers: tuple[int, ...]
    """How many lines of each answer begin with a marker."""


def render_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], learned: Learned, where: str
) -> Rendered:
    """Render a conversation that ends with an assistant turn, and find what is learned by character offsets.

    A learned answer ends with its end-of-turn token; what a template writes behind that (a newline) is not learned, for
    generation has stopped by then. Raises UserError, naming `where`, if the template renders no assistant turn, or writes
    the beginning of a conversation differently from the prompt of one of its answers.
    """
    text = _render(tokenizer, messages, opening=False)
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    turns, spans, counts = [], [], []
    for index in answers if learned.turns == "all" else answers[-1:]:
        first, last, at = _answer(tokenizer, messages, index, text, where)
        begin, count = learned_from(messages[index].content.strip(), learned)
        turns.append((first, last))
        spans.append((first if begin is None else at + begin, last))
        counts.append(count)
    return Rendered(text, tuple(turns), tuple(spans), tuple(counts))


def _answer(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], index: int, text: str, where: str
) -> tuple[int, int, int]:
    """Where the turn of an answer begins (behind its prompt) and ends in the text, and where the answer itself begins."""
    prompt = render_prompt(tokenizer, messages[:index])
    if not text.startswith(prompt):
        raise UserError(
            f"{where}: the chat template writes the conversation differently from its own prompt (they part at character "
            f"{_parting(text, prompt)}), so training would not see what evaluation asks; use a template whose prompt is a prefix"
        )
    answer = messages[index].content.strip()
    at = text.find(answer, len(prompt))
    if at < 0:
        raise UserError(
            f"{where}: the chat template renders no assistant turn (the answer is not in the rendered text); "
            "expected a template that writes the messages of the role 'assistant'"
        )
    turn = text if index == len(messages) - 1 else _render(tokenizer, messages[: index + 1], opening=False)
    if not text.startswith(turn):
        raise UserError(
            f"{where}: the chat template writes turn {index + 1} differently once others follow (they part at character "
            f"{_parting(text, turn)}): learn the last turn alone (data.learn_turns), or use another template"
        )
    end_of_turn = str(tokenizer.eos_token)
    closing = turn.find(end_of_turn, at + len(answer))
    return len(prompt), closing + len(end_of_turn) if closing >= 0 else len(turn), at


def learned_from(answer: str, learned: Learned) -> tuple[int | None, int]:
    """Return the character of an answer from which it is learned (None: all of it), and how many lines begin with a marker.

    Of several the first line that is a marker and nothing else counts, else the first that begins with one.
    """
    if learned.answer == "whole":
        return None, 0
    words = "|".join(re.escape(marker) for marker in learned.markers)
    found = list(re.finditer(rf"^(?:{words})(?P<rest>[ \t]*(?:\r?\n|$))?", answer, re.MULTILINE))
    if not found:
        return None, 0
    marker = next((match for match in found if match["rest"] is not None), found[0])
    return marker.start() if learned.answer == "from_marker" else marker.end(), len(found)


def render_segments(segments: Sequence[Segment]) -> Rendered:
    """Return the text of a row of plain text, and where in it the model learns: no template, nothing between the segments."""
    text = ""
    spans: list[tuple[int, int]] = []
    for segment in segments:
        first, text = len(text), text + segment.text
        if segment.learned and segment.text:
            # Two learned segments in a row are one span: a token over their border is learned.
            begin = spans.pop()[0] if spans and spans[-1][1] == first else first
            spans.append((begin, len(text)))
    return Rendered(text, (), tuple(spans), ())


def render_row(tokenizer: PreTrainedTokenizerBase, row: Row, learned: Learned, where: str) -> Rendered:
    """Render a row of either kind (see `render_conversation`, `render_segments`)."""
    if row.segments:
        return render_segments(row.segments)
    return render_conversation(tokenizer, row.messages, learned, where)


def make_sample(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    row_id: str,
    where: str,
    learned: Learned = WHOLE_LAST_TURN,
) -> Sample:
    """Render, tokenise and mask one conversation (see `render_conversation` for what is learned, `tokenise` for how)."""
    rendered = render_conversation(tokenizer, messages, learned, where)
    return tokenise(tokenizer, [rendered], [row_id], [where])[0]


def tokenise(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Rendered], row_ids: Sequence[str], wheres: Sequence[str]
) -> list[Sample]:
    """Tokenise and mask rendered rows together; the result of each does not depend on the others.

    Each answer is tokenised apart from what stands before it, so that the sample begins with exactly the tokens that
    evaluation feeds: in one piece, an answer that starts with a space would melt into the prompt's last token. Segments are
    tokenised in one piece. A token is learned if all its characters lie in one learned span: one over a border is only read.
    Raises UserError, naming its `where`, for a row with a character to learn that the tokenizer cannot write.
    """
    borders = [[0, *(first for first, _ in rendered.turns), len(rendered.text)] for rendered in texts]
    pieces = [
        rendered.text[first:last] for rendered, own in zip(texts, borders, strict=True) for first, last in pairwise(own)
    ]
    encoded = tokenizer(
        pieces,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    ids_of, offsets_of = iter(encoded["input_ids"]), iter(encoded["offset_mapping"])
    samples = []
    for rendered, own, row_id, where in zip(texts, borders, row_ids, wheres, strict=True):
        input_ids: list[int] = []
        mask: list[bool] = []
        for border in own[:-1]:
            ids, offsets = next(ids_of), next(offsets_of)
            spans = [(begin - border, end - border) for begin, end in rendered.spans if end > border]
            input_ids += ids
            mask += _within(offsets, spans)
            _refuse_unknown(tokenizer, rendered, border, ids, offsets, where)
        before = rendered.turns[-1][0] if rendered.turns else rendered.spans[0][0] if rendered.spans else 0
        samples.append(Sample(row_id, input_ids, mask, prompt_hash(rendered.text[:before]), rendered.markers))
    return samples


def _within(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Return for each token whether all its characters lie in one of the spans."""
    if len(spans) == 1:
        begin, end = spans[0]
        return [begin <= first and last <= end for first, last in offsets]
    return [any(begin <= first and last <= end for begin, end in spans) for first, last in offsets]


def _refuse_unknown(
    tokenizer: PreTrainedTokenizerBase,
    rendered: Rendered,
    border: int,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    where: str,
) -> None:
    """Refuse an answer that would be learned as the unknown token (SmolLM2's vocabulary lacks 21 of the 256 bytes)."""
    if tokenizer.unk_token_id not in ids:
        return
    for token, (first, last) in zip(ids, offsets, strict=True):
        in_answer = any(
            begin <= border + first and border + last <= end for begin, end in rendered.turns or rendered.spans
        )
        text = rendered.text[border + first : border + last]
        if token == tokenizer.unk_token_id and in_answer and text != tokenizer.unk_token:
            raise UserError(
                f"{where}: the tokenizer has no token for {text!a} in the answer: the model would learn "
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


def special_tokens_of_template(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the special tokens that the chat template writes around turns: none has a place inside a turn's text."""
    written = str(tokenizer.chat_template) + render_prompt(tokenizer, (Message("user", ""),))
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return tuple(sorted(token for token in special | set(tokenizer.all_special_tokens) if token in written))
