"""Which chat template a tokenizer renders with: its own, another that it carries, or a file's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tanren.common.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OWN = "default"
"""What the library calls the template of a tokenizer that carries one alone, and the usual one of several."""


def choose_template(tokenizer: PreTrainedTokenizerBase, wanted: str | None, model: str) -> None:
    """Give the tokenizer the template that `wanted` names (see `model.chat_template`), and no other beside it.

    Raises UserError, naming the templates that there are, for a name that is none of them and no file either.
    """
    carried = tokenizer.chat_template or {}
    templates = dict(carried) if isinstance(carried, Mapping) else {OWN: str(carried)}
    known = ", ".join(templates) or "none"
    if wanted is None:
        if templates and OWN not in templates:
            raise UserError(
                f"the tokenizer of {model} carries the chat templates {known}, and none of them is its usual one: name one "
                "with model.chat_template"
            )
        tokenizer.chat_template = templates.get(OWN)
        return
    if wanted in templates:
        tokenizer.chat_template = templates[wanted]
        return
    path = Path(wanted).expanduser()
    if not path.is_file():
        raise UserError(
            f"model.chat_template {wanted!r}: the tokenizer of {model} carries no template of that name (it has: {known}), and "
            "there is no such file; leave it out for the model's own"
        )
    try:
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"model.chat_template: {path} cannot be read as text: {error}") from None
