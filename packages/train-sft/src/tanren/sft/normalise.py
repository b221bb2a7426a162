"""Named ways to rewrite answers before they are learned."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tanren.common.chat import Learned, learned_from

BEGIN, END = "<|BEGIN_CODE|>", "<|END_CODE|>"
# A fence at the beginning of a line, with a language behind it or not, up to the next line that is its end.
FENCED = re.compile(r"^```[^\n`]*\n(?P<body>.*?)^```[ \t]*\r?$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Normalised:
    """A rewritten answer, and how its body was found."""

    text: str
    kind: str


class NotNormalisableError(Exception):
    """Why an answer cannot be rewritten: what was found and what was expected."""


Normaliser = Callable[[str, Sequence[str]], Normalised]


def code_tags(answer: str, markers: Sequence[str]) -> Normalised:
    """Return the body of an answer between `<|BEGIN_CODE|>` and `<|END_CODE|>`, each on a line of its own.

    The body is what stands between the tags if the answer has both; else the first fenced block; else what follows the
    marker (`learned_from`); else all of it. Line breaks around it go, its own characters stay. What was rewritten once
    stays as it is. Raises NotNormalisableError for a body that is empty, or holds a tag itself.
    """
    body, kind = _body(answer, markers)
    body = body.strip("\r\n")
    if not body.strip():
        raise NotNormalisableError(f"the answer has nothing to put between {BEGIN} and {END} ({kind})")
    if BEGIN in body or END in body:
        raise NotNormalisableError(
            f"the answer has a {BEGIN} or {END} inside what stands between them or should; expected one pair at most"
        )
    return Normalised(f"{BEGIN}\n{body}\n{END}", kind)


def _body(answer: str, markers: Sequence[str]) -> tuple[str, str]:
    begin, end = answer.find(BEGIN), answer.rfind(END)
    if 0 <= begin < end:
        return answer[begin + len(BEGIN) : end], "between tags"
    fenced = FENCED.search(answer)
    if fenced is not None:
        return fenced["body"], "from a fenced block"
    start, _ = learned_from(answer, Learned("last", "after_marker", tuple(markers)))
    if start is not None:
        return answer[start:], "after a marker"
    return answer, "as a whole"


NORMALISERS: Mapping[str, Normaliser] = {"code-tags": code_tags}
"""By the names of `data.normalise`."""
