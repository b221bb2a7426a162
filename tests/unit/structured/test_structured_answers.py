"""Verdicts: finding the answer, equality, first differences and rewards."""

from __future__ import annotations

from typing import Any

import pytest

from tanren.common.errors import UserError
from tanren.common.task_contract import Row, Verdict
from tasks.structured import task
from tasks.structured.answers import find_answer
from tasks.structured.lenient import is_syntax_valid

_VALUE = {"total": 12, "name": "Ann", "paid": True, "tags": ["a", "b"]}
_RECORDS = [{"n": 1, "s": "x"}, {"n": 2.5, "s": "007"}]


def _row(group: str, expected: Any = None) -> Row:
    default: Any = {"xml": {"order": _VALUE}, "csv": _RECORDS}.get(group, _VALUE)
    return Row(f"test-{group}", (), "", group, default if expected is None else expected)


_JSON = '{"total": 12, "name": "Ann", "paid": true, "tags": ["a", "b"]}'
_TAGS = "<tags><item>a</item><item>b</item></tags>"
_XML = f"<order><total>12</total><name>Ann</name><paid>true</paid>{_TAGS}</order>"

_WRITTEN = {
    "json": _JSON,
    "yaml": "total: 12\nname: Ann\npaid: true\ntags: [a, b]",
    "toml": 'total = 12\nname = "Ann"\npaid = true\ntags = ["a", "b"]',
    "xml": _XML,
    "csv": "n,s\n1,x\n2.5,007",
}


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("{}", "{}"),
        ("\n \n{}\n\n", "{}"),
        ("  a: 1\n  b: 2\n", "  a: 1\n  b: 2"),
        ("Here:\n```json\n{}\n```\nThat is it.", "{}"),
        ("```\n{}\n```\n```\n[]\n```", "{}"),
        ("```json\n{}\n```\nLike this:\n```json\n{", "{}"),
        ("  ```toml\na = 1\n  ```", "a = 1"),
        ("```json\n```", ""),
        ("``` ```", "``` ```"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_the_answer_is_the_first_code_block_or_the_whole_completion(completion: str, answer: str) -> None:
    assert find_answer(completion) == answer


@pytest.mark.parametrize(
    ("group", "completion", "line"),
    [
        ("json", f"```json\n{_JSON}", 1),
        ("json", f"```json\n{_JSON}```", 1),  # beside the document it is no line that closes
        ("json", f"{_JSON}\n```", 2),
        ("json", "```json", 1),
        ("yaml", "Sure:\n\n```yaml\ntotal: 12\nname: Ann\npaid: true\ntags: [a, b]\n", 3),
        ("xml", f"  ```xml\n{_XML}\n", 1),
        ("csv", "```\nn,s\n1,x\n2.5,007\n", 1),
        ("toml", 'Here: ```toml\ntotal = 12\n```', 3),
    ],
)  # fmt: skip
def test_an_answer_in_a_code_block_that_is_not_closed_is_unparsable(group: str, completion: str, line: int) -> None:
    parsed = task.parse(completion, _row(group))
    error = f"a code block is opened on line {line}, and no line closes it"
    assert (parsed.verdict, parsed.error) == (Verdict.UNPARSABLE, error)
    assert task.reward([completion], [_row(group)]) == [0.0]


@pytest.mark.parametrize("group", ["json", "yaml", "toml", "xml", "csv"])
@pytest.mark.parametrize("around", ["{}", "```\n{}\n```", "```\n{}\n```\n```\n", "Here:\n```x\n{}\n```\nSo."])
def test_what_is_correct_is_valid_in_the_mode_lenient(group: str, around: str) -> None:
    completion = around.replace("{}", _WRITTEN[group])
    assert task.parse(completion, _row(group)).correct
    assert is_syntax_valid(completion, group)


@pytest.mark.parametrize(
    ("group", "completion"),
    [
        ("json", '{"tags": ["a", "b"], "paid": true, "name": "Ann", "total": 12.0}'),
        ("json", 'Sure.\n```json\n{"total": 12, "name": "Ann", "paid": true, "tags": ["a", "b"]}\n```'),
        ("yaml", "total: 12\nname: Ann\npaid: true\ntags: [a, b]"),
        ("yaml", '"total": 12\n"name": "Ann"\n"paid": yes\n"tags":\n- a\n- b'),
        ("toml", 'total = 12\nname = "Ann"\npaid = true\ntags = ["a", "b"]'),
        ("xml", _XML),
        (
            "xml",
            '<?xml version="1.0" encoding="UTF-8"?>\n' + _XML.replace("12", " 12.0 ").replace("><", ">\n<"),
        ),
        ("csv", "n,s\n1,x\n2.50,007"),
        ("csv", 's,n\n"x",1\n007,2.5\n'),
    ],
)
def test_equal_answers_are_correct(group: str, completion: str) -> None:
    parsed = task.parse(completion, _row(group))
    assert (parsed.verdict, parsed.error) == (Verdict.CORRECT, "")


@pytest.mark.parametrize(
    ("group", "completion", "error"),
    [
        ("json", _JSON.replace('"total": 12', '"total": "12"'), "total: found '12', expected 12"),
        ("json", _JSON.replace('"Ann"', '"ann"'), "name: found 'ann', expected 'Ann'"),
        ("json", _JSON.replace('"paid": true', '"paid": 1'), 'paid: found 1, expected true'),
        ("json", _JSON.replace('"total": 12', '"total": true'), 'total: found true, expected 12'),
        ("json", _JSON.replace('"a", "b"', '"b", "a"'), "tags[0]: found 'b', expected 'a'"),
        ("json", _JSON.replace(', "b"', ''), 'tags: found 1 entries, expected 2'),
        ("json", _JSON.replace(', "tags": ["a", "b"]', ''), 'tags: found no such key, expected a list'),
        ("json", '[{"total": 12}]', "document: found a list, expected a mapping"),
        ("json", "{}", "total: found no such key, expected 12"),
        ("json", '{"sum": 12}', "total: found no such key, but 'sum', expected 12"),
        ("yaml", "total: 12\nname: Ann\npaid: true\ntags: [a, b]\nx: 1", "x: found 1, expected no such key"),
        ("yaml", "Here you are: the order", "total: found no such key, but 'Here you are', expected 12"),
        ("toml", 'total = 12\nname = "Ann"\npaid = "true"\ntags = []', "paid: found 'true', expected true"),
        ("xml", _XML.replace("order", "data"), "order: found no such key, but 'data', expected a mapping"),
        ("xml", _XML.replace("true", "True"), "order.paid: found 'True', expected true"),
        ("xml", _XML.replace("<total>", '<total unit="x">'), "order.total: found a mapping, expected 12"),
        ("xml", _XML.replace("item", "tag"), "order.tags: found a mapping, expected a list"),
        ("csv", "n,s\n2.5,007\n1,x", "[0].n: found '2.5', expected 1"),
        ("csv", "n,s\n1,x\n2.5,7", "[1].s: found '7', expected '007'"),
        ("csv", "n,s\n1,x", "document: found 1 entries, expected 2"),
    ],
)  # fmt: skip
def test_wrong_answers_name_the_first_difference(group: str, completion: str, error: str) -> None:
    parsed = task.parse(completion, _row(group))
    assert (parsed.verdict, parsed.error) == (Verdict.WRONG, error)
    assert parsed.valid
    assert not parsed.correct


@pytest.mark.parametrize("group", ["json", "yaml", "toml", "xml", "csv"])
@pytest.mark.parametrize("completion", ["", "  \n", "I cannot do that.", "```\n```"])
def test_nothing_and_plain_prose_are_absent(group: str, completion: str) -> None:
    assert task.parse(completion, _row(group)).verdict is Verdict.ABSENT


@pytest.mark.parametrize(
    ("group", "completion"),
    [
        ("json", "12"),
        ("yaml", "a note - of some length"),
        ("csv", "a\n1\n2"),
        ("xml", '{"a": 1}'),
        ("json", '"{}"'),
    ],
)
def test_an_answer_of_no_document_at_all_is_absent(group: str, completion: str) -> None:
    assert task.parse(completion, _row(group)).verdict is Verdict.ABSENT


@pytest.mark.parametrize(
    ("group", "completion"),
    [
        ("json", '{"total": 12'),
        ("json", 'Here it is: {"total": 12}'),
        ("yaml", "total: 12\n  name: Ann"),
        ("toml", "total: 12\n[a"),
        ("xml", "<order><total>12</order>"),
        ("csv", "Sure, here you are"),
        ("csv", "n,s\n1,2,3"),
    ],
)
def test_broken_syntax_is_unparsable(group: str, completion: str) -> None:
    parsed = task.parse(completion, _row(group))
    assert parsed.verdict is Verdict.UNPARSABLE
    assert parsed.value is None
    assert parsed.error


def test_rewards_pay_for_content_and_a_little_for_syntax() -> None:
    completions = [_JSON, "{}", "{", "no", "{}"]
    judged = [_row("json")] * 4 + [Row("no gold", (), "", "json")]
    assert task.reward(completions, judged) == [1.0, 0.2, 0.0, 0.0, None]


def test_rewards_need_one_row_for_each_completion() -> None:
    with pytest.raises(ValueError, match="argument"):
        task.reward(["{}"], [])


def test_a_row_that_cannot_be_judged_is_named() -> None:
    with pytest.raises(UserError, match="row r1: found the group 'ini'"):
        task.parse("a", Row("r1", (), "", "ini", {"a": 1}))
    with pytest.raises(UserError, match="row r2: found no expected value"):
        task.parse("{}", Row("r2", (), "", "json"))
