"""Answers as tables and trees: what is shown of which text, and that no text is too hostile to be shown."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.evaluate.view._shown import MAX_CHARACTERS, MAX_NODES, shown


def nodes(value: Any) -> int:
    """Count lists and texts, without the stack that a deep value would need."""
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        count += 1
        waiting += list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else []
    return count


def test_records_of_the_same_names_are_a_table() -> None:
    value = [{"a": 1, "b": None}, {"b": True, "a": "x"}]
    assert shown("...", value, "yaml") == {
        "kind": "table", "header": ["a", "b"], "rows": [["1", "null"], ["x", "true"]], "left_out": 0,
    }  # fmt: skip
    others: list[Any] = [[{"a": 1}, {"b": 1}], [{"a": [1]}], [{}], [1], {"a": 1}]
    for other in others:
        found = shown("...", other, "yaml")
        assert found is not None
        assert found["kind"] == "tree"


def test_scalars_keep_what_a_browser_would_round() -> None:
    value = {"big": 2**70, "float": 0.1, "inf": float("inf"), "day": datetime.date(2026, 1, 2), "no": False, "t": "5"}
    found = shown("...", value, "toml")
    assert found is not None
    assert found["root"] == ["map", [
        ["big", ["number", "1180591620717411303424"]], ["float", ["number", "0.1"]], ["inf", ["number", "inf"]],
        ["day", ["other", "2026-01-02"]], ["no", ["bool", "false"]], ["t", ["text", "5"]],
    ]]  # fmt: skip


def test_csv_is_a_table_though_it_is_broken_and_fenced() -> None:
    found = shown("Here:\n```csv\na,b\n1\n\n2,3,4\n```\nDone.", None, "CSV")
    assert found == {"kind": "table", "header": ["a", "b"], "rows": [["1"], ["2", "3", "4"]], "left_out": 0}


def test_xml_is_its_elements() -> None:
    found = shown('<a x="1">t<b/>u</a>', {"a": {}}, "xml")
    assert found == {"kind": "xml", "root": ["a", [["x", "1"]], "t", [["b", [], "", [], "u"]], ""]}


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        "<a>\ud800</a>",
        "<a>&undefined;</a>",
        "<a>\0</a>",
        "<a>",
    ],
)
def test_xml_with_entities_or_errors_stays_text(text: str) -> None:
    assert shown(text, None, "xml") is None


def test_what_has_no_structure_stays_text() -> None:
    values: list[Any] = [None, "text", 5, [], {}]
    for value in values:
        assert shown("an answer", value, "yaml") is None
    assert shown("", None, "csv") is None
    assert shown("x" * (MAX_CHARACTERS + 1), {"a": 1}, "json") is None


def test_deep_wide_and_large_answers_are_bounded() -> None:
    deep: Any = "end"
    for _ in range(50_000):
        deep = [deep]
    for text, value, group in (
        ("x", deep, "json"),
        ("x", list(range(100_000)), "json"),
        ("x", {"a": [list(range(1000))] * 1000}, "json"),
        ("<a>" * 50_000 + "</a>" * 20_000, None, "xml"),
        ("<a>" * 25_000 + "</a>" * 25_000, None, "xml"),
        (f"<a>{'<b/>' * 50_000}</a>", None, "xml"),
        ("a,b\n" + "1,2\n" * 50_000, None, "csv"),
        ("," * 200_000 + "\n" + "," * 50_000, None, "csv"),
        ('a,"' + "x" * 200_000, None, "csv"),
        ("x", {"n": 10**100_000}, "json"),
    ):
        found = shown(text, value, group)
        assert found is None or nodes(found) <= 8 * MAX_NODES
        json.dumps(found)


@given(st.text() | st.from_regex(r"[<>a&;\"'=/! \n,]*", fullmatch=True), st.sampled_from(["csv", "xml", "json"]))
def test_any_text_can_be_shown(text: str, group: str) -> None:
    json.dumps(shown(text, None, group))
    json.dumps(shown(f"<a>{text}</a>", None, "xml"))
