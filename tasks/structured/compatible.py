"""The mode `compatible`: the score of StructEval-T, 0.2 for a text that parses and 0.8 for the share of asked paths that exist.

Source: TIGER-AI-Lab/StructEval, commits 13a34f41 (scorer) and 0459f7f5 (extraction). Kept: what is taken as the answer, the
grammar of paths, the formula, the rounding, and that every CSV parses. Not kept: that decoding escapes spoils text that
needs none (here escapes are decoded only where the text as written does not parse), and what ends the original's loop.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .limits import FormatError
from .loading import load, parses

_EMPTY_THINKING = re.compile(r"<think>\s*</think>")
_MARKED = {
    "```": re.compile(r"```[\w+-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL),
    "<|BEGIN_CODE|>": re.compile(r"<\|BEGIN_CODE\|>(.*?)(?:<\|END_CODE\|>|\Z)", re.DOTALL),
    "<code>": re.compile(r"<code>(.*?)(?:</code>|\Z)", re.DOTALL),
}
"""What stands around an answer, in the order of precedence."""
_ESCAPE = re.compile(r"\\(?:([nrt\"'\\])|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_STEP = re.compile(r"`([^`]*)`|\[(\d{1,9}|\*)\]|([^.`\[\]]+)")
_MAX_STEPS = 64


@dataclass(frozen=True, slots=True)
class StructEvalScore:
    """What StructEval-T gives one answer."""

    render_score: int  # 1 if it parses to something
    key_validation_score: float  # the share of paths that exist; 0 without paths
    final_eval_score: float


def structeval_score(completion: str, name: str, paths: Sequence[str]) -> StructEvalScore:
    """Score an answer in the format `name`: only that a path exists is tested, never the value there."""
    text = extract(completion)
    if not paths and name in ("csv", "xml") and (name == "csv" or parses(name, text)):
        return StructEvalScore(1, 0.0, final_score(1, 0))  # where it parses it is not empty
    value, rendered = _value(text, name)
    found = sum(path_exists(value, path, name) for path in paths) if rendered else 0
    keys = found / len(paths) if paths else 0.0
    return StructEvalScore(int(rendered), keys, final_score(int(rendered), keys))


def final_score(render: float, keys: float) -> float:
    """Return round(0.2 render + 0.8 keys, 2)."""
    return round(0.2 * render + 0.8 * keys, 2)


def extract(completion: str) -> str:
    """Return the text that is scored: a fenced block, else what stands between marks, else everything."""
    text = completion.replace("&lt;", "<").replace("&gt;", ">")
    text = _EMPTY_THINKING.sub("", text)
    for mark, pattern in _MARKED.items():
        match = pattern.search(text) if mark in text else None
        if match:
            return match.group(1).strip()
    return text.strip()


def _value(text: str, name: str) -> tuple[Any, bool]:
    """Return the parsed value and whether it counts as rendered; escapes are decoded where the text needs it."""
    if name == "csv":
        try:
            return load(name, text), True
        except FormatError:
            return [], True  # the original's reader is never asked for a row, so it never fails
    for tried in (text, _decoded(text)) if "\\" in text else (text,):
        try:
            value = load(name, tried)
        except FormatError:
            continue
        return value, bool(value)
    return None, False


def _decoded(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        letter, unicode, hexadecimal = match.groups()
        return _ESCAPED.get(letter, letter) if letter else chr(int(unicode or hexadecimal, 16))

    return _ESCAPE.sub(one, text)


def path_exists(value: Any, path: str, name: str) -> bool:
    """Tell whether a path leads somewhere.

    Dots part keys, backticks quote one, `[n]` is an entry of a list, `*` any entry (one is enough), `csv::Header` a
    column; in XML `@name` is also found as `name`.
    """
    if name == "csv":
        header: list[str] = next((row for row in value if row), [])
        return path.startswith("csv::") and path.removeprefix("csv::") in header
    steps = [
        (True, index) if index else (key == "*", quoted if quoted is not None else key)
        for quoted, index, key in (match.groups() for match in _STEP.finditer(path))
    ]
    if not steps or len(steps) > _MAX_STEPS:
        return False
    nodes = [value]
    for is_index, step in steps:
        nodes = [below for node in nodes for below in _below(node, is_index, step, name)]
        if not nodes:
            return False
    return True


def _below(node: Any, is_index: bool, step: str, name: str) -> list[Any]:
    if is_index:
        if not isinstance(node, list):
            return []
        return node if step == "*" else node[int(step) : int(step) + 1]
    if not isinstance(node, dict):
        return []
    if step in node:
        return [node[step]]
    if name == "xml" and step.startswith("@") and step[1:] in node:
        return [node[step[1:]]]
    return []
