"""The payload of an answer: its format, where it begins, and whether it is valid."""

from __future__ import annotations

import json
import tomllib
import xml.etree.ElementTree as ET
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.chat import MARKERS
from tanren.common.data import FORMATS, payload_format, payload_of
from tanren.common.data._formats import MAX_MERGED, check_payload
from tanren.common.task_contract import Message, Row


def _row(answer: str = "a", **metadata: Any) -> Row:
    return Row("r", (Message("user", "q"),), answer, "all", metadata=metadata)


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"format": "JSON", "subcategory": "x_to_xml", "category": "C_CSV"}, "json"),
        ({"subcategory": "xml_to_yaml", "category": "C_XML"}, "yaml"),
        ({"subcategory": "text_to_yml"}, "yaml"),
        ({"subcategory": "a_to_b_to_toml"}, "toml"),
        ({"subcategory": "plain", "category": "C_TOML"}, "toml"),
        ({"category": "csv"}, "csv"),
        ({"format": "markdown", "category": "C_XML"}, None),
        ({"subcategory": "xml_to_html", "category": "C_XML"}, None),
        ({"format": None, "category": "C_XML"}, "xml"),
        ({"format": 3}, None),
        ({}, None),
    ],
)
def test_the_format_is_said_by_the_first_that_says_one(metadata: dict[str, Any], name: str | None) -> None:
    assert payload_format(_row(**metadata)) == name


def test_the_payload_is_what_stands_behind_the_marker() -> None:
    assert payload_of(_row("Plan.\nOutput: none yet\nOutput:\na: 1\n"), MARKERS) == "a: 1"
    assert payload_of(_row(" a: 1\n"), MARKERS) == "a: 1"
    assert payload_of(_row("x\nOutput:\na"), ()) == "x\nOutput:\na"


VALID = {
    "json": ['{"a": [1, "\u2028"]}', "[]", '"text"', "1e9", '\n{"a": 1, "a": 2}\n'],
    "yaml": ["a: 1", "- a\n- b\n", "a: &x {b: 1}\nc:\n  <<: *x\n", "---\na: 2026-01-02\n...", "{}"],
    "toml": ["a = 1", "[a]\nb = 2026-01-02\n", "# nothing but a comment"],
    "xml": ["<a/>", '\n<?xml version="1.0" encoding="UTF-8"?>\n<a b="c">é<d/></a>\n', "<!DOCTYPE a><a/>"],
    "csv": ["a,b\n1,2", 'a,b\r\n"1\n1","2,2"\r\n', "a\n1"],
}
INVALID = {
    "json": ["{", "{'a': 1}", "[NaN]", "[-Infinity]", "{} {}", "```json\n{}\n```", "9" * 5000, "\ufeff{}"],
    "yaml": ["a: b: c", "text", "3", "a: !!python/object:os.system x", "a: 2024-13-45", "--- 1\n--- 2", "a: *x", "\x01", "? [a]\n: b", "!!int _"],
    "toml": ["a = ", "a = 1\na = 2", "{}", "a = 2024-13-45", "a = \0"],
    "xml": ["<a>", "<a></b>", "text", "<a/><b/>", "<a>&nbsp;</a>", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "\ud800"],
    "csv": ["a,b", "a,b\n1", "a,b\n1,2,3", 'a,b\n"1,2', "a\0,b\n1,2", 'a,b\n"1"2,3'],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in FORMATS for text in VALID[name]])
def test_a_valid_payload_is_valid(name: str, text: str) -> None:
    assert check_payload(name, text) is None


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in FORMATS for text in [*INVALID[name], "", " \n"]])
def test_an_invalid_payload_is_told_in_one_line(name: str, text: str) -> None:
    message = check_payload(name, text)
    assert message
    assert "\n" not in message


def test_what_an_error_says_helps() -> None:
    assert "it begins with a ``` fence" in str(check_payload("json", "```json\n{}\n```"))
    assert "it does not start with <" in str(check_payload("xml", "Sure: <a/>"))
    assert check_payload("csv", "a,b\n1,2\n1") == "row 2 has 1 cells, the header has 2"
    assert check_payload("yaml", "a: [") is not None
    assert "line 1, column 5" in str(check_payload("yaml", "a: b: c"))


MERGES = "a: &a {" + ", ".join(f"k{n}: 1" for n in range(10)) + "}\n"
MERGES += "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}], own: 1}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("json", "[" * 1_000_000, "nested too deep"),
        ("json", "[" * 5_000_000, "at most"),
        ("yaml", "[" * 2_000, "nested too deep"),
        ("yaml", "[" * 200_000, "takes more than 0.2 s"),
        ("yaml", "- " * 200_000 + "a", "nested too deep"),
        ("yaml", MERGES, f"more than {MAX_MERGED} entries"),
        ("yaml", "a: " + "1:" * 300_000 + "1", "takes more than 0.2 s"),
        ("toml", "a." * 300_000 + "a = 1", "takes more than 0.2 s"),
        ("toml", "a = " + "[" * 100_000, "nested too deep"),
        ("xml", "<a>" * 50_000, "no element found"),
        ("csv", "a,b\n" + "x" * 200_000 + ",1", "field larger than field limit"),
    ],
)
def test_a_hostile_payload_neither_hangs_nor_crashes(name: str, text: str, told: str) -> None:
    seconds = 0.2 if "0.2 s" in told else 60.0
    assert told in str(check_payload(name, text, seconds))


def test_a_yaml_mapping_that_holds_or_merges_itself_is_read() -> None:
    assert check_payload("yaml", "&a [*a]") is None
    assert check_payload("yaml", "&a {<<: *a, b: 1}") is None


@given(text=st.text(alphabet="ab:-{}[]\"'#&*!<>/=,.01\n\t \r|%@`\\", max_size=40))
def test_the_verdict_is_that_of_the_plain_parser(text: str) -> None:
    def parses(read: Any, value: str) -> bool:
        try:
            found = read(value)
        except (ValueError, yaml.YAMLError, ET.ParseError, AttributeError):
            return False
        return read is not yaml.safe_load or isinstance(found, dict | list)

    if text.strip():
        trimmed = text.strip("\r\n")
        for name, read in (("json", json.loads), ("yaml", yaml.safe_load), ("toml", tomllib.loads)):
            assert (check_payload(name, text) is None) == parses(read, trimmed), name
        assert (check_payload("xml", text) is None) == parses(ET.fromstring, text.strip())
