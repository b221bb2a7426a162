"""The mode `lenient`: does the answer parse at all? Published syntax rates of StructEval-T competitions are this number."""

from __future__ import annotations

import re

from .limits import FormatError
from .loading import load

_BLOCK = re.compile(r"```[^\S\n]*+[\w+-]*+[^\S\n]*+\n(.*?)```", re.DOTALL)


def syntax_error(completion: str, name: str) -> str | None:
    """Return why an answer does not parse in the format `name`, None if it does.

    The text that counts is the first fenced block that is closed, else everything. What JSON, YAML, TOML and ElementTree's
    own parsers take is valid, bare values included; a CSV is valid with one row.
    """
    block = _BLOCK.search(completion)
    text = (block.group(1) if block else completion).strip()
    try:
        value = load(name, text)
    except FormatError as error:
        return str(error)
    return "CSV: no row" if name == "csv" and not value else None
