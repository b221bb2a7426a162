"""The mode `lenient`: does the answer parse at all? Published syntax rates of StructEval-T competitions are this number."""

from __future__ import annotations

import re

from .loading import parses

_BLOCK = re.compile(r"```[^`\n]*+\n(.*?)```", re.DOTALL)


def is_syntax_valid(completion: str, name: str) -> bool:
    """Tell whether an answer parses in the format `name`.

    The text that counts is the first fenced block that is closed, else everything. What JSON, YAML, TOML and ElementTree's
    own parsers take is valid, bare values included; a CSV is valid with one row.
    """
    block = _BLOCK.search(completion) if "```" in completion else None
    text = (block.group(1) if block else completion).strip()
    return parses(name, text) and not (name == "csv" and not text)
