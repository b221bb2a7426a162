"""Reading an answer: where its JSON is, what is refused, and what hostile text does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.task_contract import Verdict
from tasks.extraction import task

from .articles import ANA, NOTHING, answer, gold, row

EXACT = answer(gold(ANA))
ROW = row(gold(ANA))


@pytest.mark.parametrize(
    "completion",
    [
        EXACT,
        f"Here it is:\n```json\n{EXACT}\n```",
        f'<think>Perhaps {{"persons": []}}?</think>\n{EXACT}',
        f"<|channel|>analysis<|message|>{{}}<|end|><|start|>assistant<|channel|>final<|message|>{EXACT}<|return|>",
        json.dumps(json.loads(EXACT), indent=2),
    ],
)
def test_the_json_is_from_the_first_brace_to_the_last_behind_the_reasoning(completion: str) -> None:
    assert task.parse(completion, ROW).correct


@pytest.mark.parametrize(
    ("completion", "verdict", "told"),
    [
        ("", Verdict.ABSENT, "no { ... } was written"),
        ("} nothing {", Verdict.ABSENT, "no { ... } was written"),
        (f"<think>{EXACT}", Verdict.ABSENT, "the reasoning was not closed"),
        (EXACT[:-3], Verdict.UNPARSABLE, "Expecting"),
        (f"{EXACT} {EXACT}", Verdict.UNPARSABLE, "Extra data"),
        ('{"persons": [], "persons": []}', Verdict.UNPARSABLE, "the key 'persons' is there twice"),
        (r'{"persons": "\ud800"}', Verdict.UNPARSABLE, "a lone surrogate"),
        ('{"persons": NaN}', Verdict.UNPARSABLE, "NaN is no JSON value"),
        ('{"persons": 1e999}', Verdict.UNPARSABLE, "beyond the range"),
        ('{"persons": ' + "9" * 41 + "}", Verdict.UNPARSABLE, "a number of 41 characters"),
        ("{" + '"a":{' * 16 + "}" * 17, Verdict.UNPARSABLE, "nested deeper than 16 levels"),
        ("{" + " " * 70_000 + "}", Verdict.UNPARSABLE, "at most 65536 are read"),
        ("{}", Verdict.WRONG, "no key 'persons'"),
        (answer(NOTHING, persons={}), Verdict.WRONG, "persons is no list"),
        (answer(NOTHING, persons=["Ana"]), Verdict.WRONG, "persons[0] is no object"),
        (answer(NOTHING, persons=[{"name": ["Ana"]}]), Verdict.WRONG, "persons[0].name is no plain value"),
        (answer(NOTHING, occured_locations=[1]), Verdict.WRONG, "occured_locations[0] is no text"),
        (answer(NOTHING, police_departments=None), Verdict.WRONG, "police_departments is no list"),
    ],
)
def test_what_cannot_be_read_is_told(completion: str, verdict: Verdict, told: str) -> None:
    parsed = task.parse(completion, ROW)
    assert parsed.verdict is verdict
    assert told in parsed.error
    assert task.reward([completion], [ROW]) == [0.1 if verdict is Verdict.WRONG else 0.0]


@given(st.text(max_size=300) | st.text(alphabet='{}[]":,\\ntpersons0', max_size=300))
def test_any_text_is_judged(completion: str) -> None:
    for text in (completion, EXACT[: len(completion)] + completion + EXACT[len(completion) :]):
        parsed = task.parse(text, ROW)
        value = task.reward([text], [ROW])[0]
        assert value is not None
        assert 0 <= value <= 1
        assert (value == 1) is parsed.correct
        assert bool(task.mistakes(text, ROW)) is not parsed.correct
