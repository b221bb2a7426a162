"""Finding the answer in a completion, and judging it.

The rule: when a line of the completion opens a code block (```), the answer is the content of the first
block, up to the next line that begins with ```; otherwise it is the whole completion. Blank lines around it
do not count. A block that no line closes is no answer: who reads it, as the mode `lenient` does, finds no
block, and a model that is rewarded for one learns never to close any. What stands before and after the first
block, further blocks included, does not count; prose beside an answer that is not in a block belongs to the
answer, and breaks it.
"""

from __future__ import annotations

import re

from tanren.common.errors import UserError
from tanren.common.task_contract import Parsed, Row, Verdict

from .conversion import conversion_error
from .formats import FORMATS
from .limits import MAX_COMPLETION, FormatError
from .structeval_tasks import source_of

_FENCE = re.compile(r"^[ \t]*+```[^`\n]*+(?:\n|\Z)", re.MULTILINE)
_CLOSING_FENCE = re.compile(r"^[ \t]*+```", re.MULTILINE)
_BLANK_LINES = re.compile(r"(?:[ \t\r]*+\n)++")


def find_answer(completion: str) -> str:
    """Return the text of the answer (the rule above), empty when there is none.

    Raises FormatError when the first block is not closed.
    """
    opening = _FENCE.search(completion) if "```" in completion else None
    if opening:
        closing = _CLOSING_FENCE.search(completion, opening.end())
        if closing is None:
            line = completion.count("\n", 0, opening.start()) + 1
            raise FormatError(f"a code block is opened on line {line}, and no line closes it")
        completion = completion[opening.end() : closing.start()]
    blank = _BLANK_LINES.match(completion)
    # The first line keeps its indentation: YAML needs it when the lines below are indented as well.
    return completion[blank.end() if blank else 0 :].rstrip()


def judge(completion: str, row: Row) -> Parsed:
    """Judge a completion by the format in `row.group` and the value in `row.expected`.

    A task of an outside list that asks for a conversion is judged by the values of its source; one with nothing to compare
    with by its form alone.

    Absent: nothing, or text without even the mark of the format (formats.py: `{` or `[` for JSON, `<` for
    XML, a comma for CSV, ...), or a bare value such as a sentence that is read as YAML.
    Raises UserError when the row has no expected value or an unknown group.
    """
    entry = FORMATS.get(row.group)
    if entry is None:
        raise UserError(f"row {row.id}: found the group {row.group!r}, expected one of {', '.join(FORMATS)}")
    source = source_of(row) if row.expected is None and row.compared else None
    if row.expected is None and row.compared and source is None:
        raise UserError(f"row {row.id}: found no expected value, expected the gold value to compare with")
    if len(completion) > MAX_COMPLETION:
        error = f"too long: {len(completion)} characters, at most {MAX_COMPLETION} are read"
        return Parsed(Verdict.UNPARSABLE, error=error)
    try:
        text = find_answer(completion)
        if not text:
            return Parsed(Verdict.ABSENT, error="nothing was written")
        value = entry.read(text)
    except FormatError as error:
        return Parsed(Verdict.ABSENT if error.absent else Verdict.UNPARSABLE, error=str(error))
    if not row.compared:
        return Parsed(Verdict.UNCOMPARED, value)
    wrong = entry.difference(row.expected, value) if source is None else conversion_error(*source, row.group, value)
    if wrong is not None:
        return Parsed(Verdict.WRONG, value, wrong)
    return Parsed(Verdict.CORRECT, value)
