"""Items as the pages show them: one record for each task, with every candidate's answers, and failures by kind."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tanren.common.task_contract import Parsed, Row, Verdict
from tanren.evaluate.evaluated import Evaluated
from tanren.evaluate.predictions import Prediction
from tanren.evaluate.scoring import Judged

CUT = "cut at the token limit"
_LONGEST_KIND = 90
"""Characters of a kind of failure: one line of a table."""
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_PLACE = re.compile(r"\s*[(:,]?\s*\b(?:at )?line \d+,? (?:column|character) \d+\)?")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
_WHERE = re.compile(r"^\S[^:]{0,200}: (?=found )")


def page_data(run: str, evaluated: Evaluated) -> dict[str, Any]:
    """Return what the page's script works from: candidates, the pair to compare, and the items with their answers."""
    names = list(evaluated.candidates)
    columns = [evaluated.candidates[name] for name in names]
    return {
        "run": run,
        "group": evaluated.pack.description.group,
        "candidates": names,
        "pair": list(evaluated.pair),
        "expects": any(row.reference for row in evaluated.rows),
        "uncompared": any(not row.compared for row in evaluated.rows),
        "items": [
            item_record(row) | {"answers": [answer_records(one) for one in answers]}
            for row, *answers in zip(evaluated.rows, *columns, strict=True)
        ],
    }


def item_record(row: Row) -> dict[str, Any]:
    """Return what an item is, without its answers."""
    prompt = [[message.role, message.content] for message in row.prompt]
    return {"id": row.id, "group": row.group, "prompt": prompt, "gold": row.reference}


def answer_records(judged: Judged) -> list[dict[str, Any]]:
    """Return what was written for an item, each of its samples with what it is worth."""
    return [
        {
            "text": prediction.completion,
            "verdict": parsed.verdict.value,
            "error": parsed.error,
            "kinds": failure_kinds(prediction, parsed),
        }
        for prediction, parsed in judged.samples
    ]


def failure_kinds(prediction: Prediction, parsed: Parsed) -> list[str]:
    """Return what is wrong with an answer, in words that other answers share: its verdict with the reason, and how it was cut short."""
    kinds = []
    if parsed.verdict not in (Verdict.CORRECT, Verdict.UNCOMPARED):
        reason = _shared(parsed)
        kinds.append(f"{parsed.verdict.value}: {reason}" if reason else parsed.verdict.value)
    if prediction.finish_reason == "length":
        kinds.append(CUT)
    elif prediction.finish_reason != "stop":  # a server's filter, for one
        kinds.append(f"ended by {prediction.finish_reason!r}")
    return kinds


def failures(evaluated: Evaluated) -> list[tuple[str, Mapping[str, int]]]:
    """Return every kind of failure with how often each candidate has it, the most frequent of all first."""
    counts = {
        name: Counter(kind for one in judged for sample in one.samples for kind in failure_kinds(*sample))
        for name, judged in evaluated.candidates.items()
    }
    total: Counter[str] = sum(counts.values(), Counter())
    return [(kind, {name: count[kind] for name, count in counts.items()}) for kind, _ in total.most_common()]


def embedded(data: Any) -> str:
    """Return data as JSON that may stand in a script element: no text in it can end the element or begin a comment."""
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")


def _shared(parsed: Parsed) -> str:
    """Return why an answer failed without what is its own: quoted text, numbers, the place, of wrong ones the path in front."""
    text = _WHERE.sub("", parsed.error) if parsed.verdict is Verdict.WRONG else parsed.error
    text = _NUMBER.sub("n", _PLACE.sub("", _QUOTED.sub("'…'", text)))
    return text if len(text) <= _LONGEST_KIND else text[: _LONGEST_KIND - 1] + "…"
