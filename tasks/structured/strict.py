"""The mode `strict`: the whole answer is one document of the asked format, and a conversion holds the source's values."""

from __future__ import annotations

import math
import re

from tanren.common.task_contract import Row

from .conversion import conversion_error
from .formats import FORMATS
from .loading import read_strictly
from .values import Value

_BLANK_LINES = re.compile(r"(?:[ \t\r]*+\n)++")


def strict_error(completion: str, row: Row, source: tuple[str, Value] | None) -> str | None:
    """Return why an answer is not strictly right, None if it is.

    No fence and no prose; a mapping or a list; every key once; rows of one width; no NaN and no infinity. `source` is the
    format and value of the document to convert; where the row has a gold value (`expected`), that is what must be equal.
    """
    blank = _BLANK_LINES.match(completion)
    text = completion[blank.end() if blank else 0 :].rstrip()  # the first line keeps its indentation, which YAML needs
    if text.lstrip().startswith("```") or text.endswith("```"):
        return "a fence, expected the document alone"
    entry = FORMATS[row.group]
    if not entry.mark.search(text):
        return f"no {entry.title} was found"
    value, error = read_strictly(row.group, text)
    if error is not None:
        return str(error)
    if row.expected is not None:
        return entry.difference(row.expected, value)  # a gold value has finite numbers alone
    if not entry.as_text and _has_no_number(value):
        return "NaN or an infinity, which the formats do not share"
    return None if source is None else conversion_error(*source, row.group, value)


def _has_no_number(value: Value) -> bool:
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, float) and not math.isfinite(node):
            return True
    return False
