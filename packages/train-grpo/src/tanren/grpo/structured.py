"""The form of completions as the recipe names it (`[rollout.structured]`), checked before anything is loaded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tanren.common.completions import Structured
from tanren.common.errors import UserError
from tanren.common.grammar import check_structured
from tanren.grpo.config import StructuredConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECTION = "rollout.structured"


def read_structured(config: StructuredConfig) -> tuple[Structured | None, tuple[str, ...]]:
    """Return the form that every completion is to have, if there is one, and warnings about it.

    Raises UserError for what is none: with the file and its fault.
    """
    named = {
        "json_schema": config.json_schema is not None,
        "regex": config.regex is not None,
        "choices": config.choices is not None,
    }
    given = [name for name, there in named.items() if there]
    if not given:
        return None, ()
    if len(given) > 1:
        raise UserError(f"{SECTION} names {' and '.join(given)}: a completion has one form; keep one of them")
    name = f"{SECTION}.{given[0]}"
    if config.json_schema is not None:
        structured = Structured("json_schema", _read_schema(config.json_schema.expanduser(), name))
        name = f"{name}: {config.json_schema}"
    elif config.regex is not None:
        structured = Structured("regex", config.regex)
    else:
        assert config.choices is not None, "the one that is left"
        if not config.choices:
            raise UserError(f"{name} is an empty list: write the texts that a completion may be, or remove it")
        twice = [text for text, times in Counter(config.choices).items() if times > 1]
        if twice:
            raise UserError(f"{name} has {twice[0]!r} more than once; write each text once")
        structured = Structured("choices", json.dumps(config.choices, ensure_ascii=False))
    return structured, check_structured(structured, name)


def describe_structured(structured: Structured) -> str:
    """Return the form in one line."""
    return f"{structured.kind} {structured.text}"


def check_room(structured: Structured | None, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> None:
    """Raise UserError for a choice that, with its stop token, is longer than a completion can be: it would never be complete."""
    if structured is None or structured.kind != "choices":
        return
    for text in json.loads(structured.text):
        tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
        if tokens > max_new_tokens:
            raise UserError(
                f"{SECTION}.choices: {text!r} is {tokens} tokens with its stop token, and rollout.max_new_tokens = {max_new_tokens}; "
                f"write at least {tokens}"
            )


def _read_schema(file: Path, name: str) -> str:
    """Return a file's JSON, in one line."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{name}: {file} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: {file} is no JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {file} is no UTF-8 text, at byte {error.start}") from error
    if not isinstance(found, dict):
        raise UserError(f"{name}: {file} holds a {type(found).__name__}, expected an object: a JSON schema")
    return json.dumps(found, ensure_ascii=False)
