"""One call for all completions of a step, and where it fails one for each: which of them is at fault.

A call gets `limit` seconds; once more where SIGTERM ended the process. Where it raises, is too slow, dies, or returns another
number of results, it is asked again for one completion at a time, for `limit` seconds in all (and a quarter of that for each,
where it was too slow or died). So a call ends within twice its limit and the starts of the process in between, at most nine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tanren.common.task_contract import Row
from tanren.grpo.reward_process.protocol import Request
from tanren.grpo.rewards._worker import FailedError, StoppedError, ToldToEndError, Worker

SHARE = 0.25
"""Of the limit, for one completion alone: three that never end leave time for the others."""
MOST_STARTS = 8
"""Of the process in one call: code that takes it down at every completion must not be loaded for each of them."""


@dataclass(frozen=True)
class Answer:
    """What a call said of one completion: a result, or in words why there is none."""

    result: Any = None
    fault: str = ""


@dataclass(frozen=True)
class Call:
    """What is called, and how long it may take (seconds)."""

    name: str
    kind: Literal["parse", "reward"]
    limit: float
    stop: bool
    """The first fault is enough: the run will end with it."""


def ask(worker: Worker, call: Call, completions: Sequence[str], rows: Sequence[Row]) -> list[Answer]:
    """Return an answer for each completion."""
    request = _request(call, completions, rows)
    try:
        try:
            results = worker.ask(request, call.limit)
        except ToldToEndError:  # the trainer finishes its step on a scheduler's SIGTERM, so this has to be done as well
            results = worker.ask(request, call.limit)
        return [_answer(one) for one in results]
    except FailedError as error:
        why = str(error)
        each = SHARE * call.limit if isinstance(error, StoppedError) else call.limit
    if len(completions) == 1:
        return [Answer(fault=why)]
    answers = _one_by_one(worker, call, completions, rows, each)
    if call.stop and not any(answer.fault for answer in answers):
        together = f"for {len(completions)} completions together, although each one alone is answered"
        hint = " (is timeout_s too low?)" if each < call.limit else ""
        answers[0] = Answer(fault=f"{why} {together}{hint}")
    return answers


def _one_by_one(
    worker: Worker, call: Call, completions: Sequence[str], rows: Sequence[Row], each: float
) -> list[Answer]:
    answers: list[Answer] = []
    left, starts = call.limit, 0
    for completion, row in zip(completions, rows, strict=True):
        if left <= 0 or starts > MOST_STARTS:
            why = f"the {call.limit:g} s were used up" if left <= 0 else f"the process was started {starts} times"
            answers.append(Answer(fault=f"was not asked: {why} by those before it"))
            continue
        starts += worker.start()
        begun = time.monotonic()
        try:
            [result] = worker.ask(_request(call, [completion], [row]), min(left, each))
            answers.append(_answer(result))
        except FailedError as error:
            answers.append(Answer(fault=str(error)))
        left -= time.monotonic() - begun
        if call.stop and answers[-1].fault:
            break
    return answers + [Answer()] * (len(completions) - len(answers))


def _request(call: Call, completions: Sequence[str], rows: Sequence[Row]) -> Request:
    return Request(call.name, call.kind, list(completions), list(rows))


def _answer(result: Any) -> Answer:
    if isinstance(result, dict):
        return Answer(fault=str(result["wrong"]))
    return Answer(result)
