"""Writers and parsers: round trips, golden texts written by hand, and what each parser refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.structured.formats import FORMATS, FormatName
from tasks.structured.limits import FormatError
from tasks.structured.values import natural, naturally_typed

_KEYS = st.from_regex(r"[a-z][a-z_]{0,7}", fullmatch=True).filter(lambda key: key not in ("item", "xml"))
_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff\u2028\u2029\x85"))
_ODD = st.sampled_from((
    "yes", "no", "null", "~", "007", "1e5", "0x1F", "12:30", "2024-05-01",
    "a: b", "# a", "a #b", '"', "'", "<a>",
    "&", "- a", "", " a", "a ", "a\nb", "a\n", "\n", "a\n\n b",
    "{a}", "[a", "*a", "!a", "%a", "@a", "`a", "a,b",
    "東京", "🚀", "=", "<<", ":", "?",
))  # fmt: skip
_NUMBERS = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
_SCALARS = st.booleans() | _NUMBERS | _TEXT | _ODD
_XML_TEXT = (_TEXT | _ODD).map(str.strip).filter(lambda text: "\r" not in text)


def _documents(scalars: st.SearchStrategy[Any], *, empty: bool) -> st.SearchStrategy[Any]:
    least = 0 if empty else 1

    def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        mappings = st.dictionaries(_KEYS, inner, min_size=least, max_size=4)
        return st.lists(inner, min_size=least, max_size=4) | mappings

    values = st.recursive(scalars, containers, max_leaves=12)
    return st.dictionaries(_KEYS, values, min_size=1, max_size=5)


def _tables(cells: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.lists(_KEYS, min_size=2, max_size=4, unique=True)
    records = names.map(lambda columns: st.fixed_dictionaries(dict.fromkeys(columns, cells)))
    return records.flatmap(lambda record: st.lists(record, min_size=1, max_size=5))


def _round_trip(name: FormatName, value: Any, *, one_line: bool = False) -> None:
    entry = FORMATS[name]
    text = entry.write(value, one_line=one_line)
    assert entry.difference(value, entry.read(text)) is None


@given(_documents(_SCALARS | st.none(), empty=True), st.booleans())
@settings(max_examples=60, deadline=None)
def test_json_gives_back_what_was_written(value: Any, one_line: bool) -> None:
    _round_trip("json", value, one_line=one_line)


@given(_documents(_SCALARS | st.none(), empty=True))
@settings(max_examples=60, deadline=None)
def test_yaml_gives_back_what_was_written(value: Any) -> None:
    _round_trip("yaml", value)


@given(_documents(_SCALARS, empty=True))
@settings(max_examples=60, deadline=None)
def test_toml_gives_back_what_was_written(value: Any) -> None:
    _round_trip("toml", value)


@given(_documents(st.booleans() | _NUMBERS | _XML_TEXT, empty=False), st.booleans())
@settings(max_examples=60, deadline=None)
def test_xml_gives_back_what_was_written(value: Any, one_line: bool) -> None:
    _round_trip("xml", {"root": value}, one_line=one_line)


@settings(max_examples=60, deadline=None)
@given(_tables(st.booleans() | _NUMBERS | _TEXT | _ODD))
def test_csv_gives_back_what_was_written(value: Any) -> None:
    _round_trip("csv", value)


@settings(max_examples=60, deadline=None)
@given(_tables(st.booleans() | _NUMBERS | _XML_TEXT.filter(lambda text: natural(text) == text)))
def test_natural_typing_gives_back_the_table_exactly(value: Any) -> None:
    read = naturally_typed(FORMATS["csv"].read(FORMATS["csv"].write(value, one_line=False)))
    assert json.dumps(read, sort_keys=True) == json.dumps(value, sort_keys=True)  # tells 1, 1.0 and True apart


_DOCUMENT = {
    "id": 7,
    "name": "Ann: the #1",
    "paid": True,
    "tags": ["a", "no"],
    "home": {"zip": "0123"},
    "lines": [{"n": -1.5}, {"n": 2}],
}

_GOLDEN: dict[FormatName, str] = {
    "json": """{
  "id": 7,
  "name": "Ann: the #1",
  "paid": true,
  "tags": [
    "a",
    "no"
  ],
  "home": {
    "zip": "0123"
  },
  "lines": [
    {
      "n": -1.5
    },
    {
      "n": 2
    }
  ]
}""",
    "yaml": """id: 7
name: 'Ann: the #1'
paid: true
tags:
  - a
  - 'no'
home:
  zip: '0123'
lines:
  - n: -1.5
  - n: 2""",
    "toml": """id = 7
name = "Ann: the #1"
paid = true
tags = ["a", "no"]

[home]
zip = "0123"

[[lines]]
n = -1.5

[[lines]]
n = 2""",
    "xml": """<root>
  <id>7</id>
  <name>Ann: the #1</name>
  <paid>true</paid>
  <tags>
    <item>a</item>
    <item>no</item>
  </tags>
  <home>
    <zip>0123</zip>
  </home>
  <lines>
    <item>
      <n>-1.5</n>
    </item>
    <item>
      <n>2</n>
    </item>
  </lines>
</root>""",
}


@pytest.mark.parametrize("name", _GOLDEN)
def test_each_format_is_written_in_its_golden_style(name: FormatName) -> None:
    value: Any = {"root": _DOCUMENT} if name == "xml" else _DOCUMENT
    assert FORMATS[name].write(value, one_line=False) == _GOLDEN[name]


def test_csv_is_written_with_quotes_only_where_needed() -> None:
    records: Any = [{"a": "x, y", "b": 'say "hi"', "c": 1.5}, {"a": "p\nq", "b": "", "c": False}]
    assert FORMATS["csv"].write(records, one_line=False) == 'a,b,c\n"x, y","say ""hi""",1.5\n"p\nq",,false'


def test_tiny_documents_stand_on_one_line() -> None:
    assert FORMATS["json"].write({"a": 1, "b": "é"}, one_line=True) == '{"a": 1, "b": "é"}'
    assert FORMATS["xml"].write({"r": {"a": 1, "b": ["<"]}}, one_line=True) == "<r><a>1</a><b><item>&lt;</item></b></r>"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("yaml", "a: 2024-05-01", {"a": "2024-05-01"}),
        ("yaml", "a: 2024-05-01T07:00:00Z", {"a": "2024-05-01T07:00:00Z"}),
        ("yaml", "on: 1\n2: b\nnull: c", {"on": 1, "2": "b", "null": "c"}),
        ("yaml", "a: yes\nb: 0x10\nc: 1_000", {"a": True, "b": 16, "c": 1000}),
        ("yaml", "a: ~\nb: 'no'\nc:", {"a": None, "b": "no", "c": None}),
        ("yaml", "{a: [1, 2.5], b: !!str 3}", {"a": [1, 2.5], "b": "3"}),
        ("yaml", "<<: {a: 1}", {"<<": {"a": 1}}),
        ("yaml", "  a: 1\n  b: 2", {"a": 1, "b": 2}),
        ("toml", "a = 2024-05-01\nb = 07:32:00", {"a": "2024-05-01", "b": "07:32:00"}),
        ("toml", "a = 1979-05-27T07:32:00Z", {"a": "1979-05-27T07:32:00Z"}),
        ("toml", "[a.b]\nc = [{d = 1}]", {"a": {"b": {"c": [{"d": 1}]}}}),
        ("xml", "<?xml version='1.0'?>\n<r><a> 1 </a><b/></r>", {"r": {"a": "1", "b": ""}}),
        ("xml", "<r><item>1</item><item/></r>", {"r": ["1", ""]}),
        ("xml", '<r><a x="1">t</a></r>', {"r": {"a": {"@x": "1", "#text": "t"}}}),
        ("xml", "<r><b>u<c/>v</b></r>", {"r": {"b": {"c": "", "#text": "uv"}}}),
        ("xml", "<r><a>1</a><a>2</a></r>", {"r": {"a": "1", "a#2": "2"}}),
        ("csv", "a,b\r\n1,\"x, y\"\r\n", [{"a": "1", "b": "x, y"}]),
        ("csv", "a,b\n\n1,2\n", [{"a": "1", "b": "2"}]),
    ],
)  # fmt: skip
def test_parsers_read_the_golden_values(name: FormatName, text: str, value: Any) -> None:
    assert FORMATS[name].read(text) == value


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("json", '{"a": NaN}', "NaN"),
        ("json", '{"a": -Infinity}', "Infinity"),
        ("json", '{"a": 1e999}', "range"),
        ("json", '{"a": 1, "a": 1}', "twice"),
        ("json", '{"a": 1} and more', "Extra data"),
        ("json", "{'a': 1}", "quotes"),
        ("json", '{"a": 1,}', "JSON"),
        ("yaml", "a: 1\na: 2", "twice"),
        ("yaml", "1: a\n'1': b", "twice"),
        ("yaml", "a: &x 1\nb: *x", "anchor"),
        ("yaml", "a: *x", "alias"),
        ("yaml", "a: !!python/object/apply:os.system [ls]", "tag"),
        ("yaml", "a: !!binary aGk=", "tag"),
        ("yaml", "a: 1\n---\nb: 2", "second document"),
        ("yaml", "? [a]\n: b", "key"),
        ("yaml", "a: 0b_", "number"),
        ("yaml", "a: [1", "line 1|line 2"),
        ("toml", "a = 1\na = 2", "TOML"),
        ("toml", "a = ", "TOML"),
        ("toml", "a = 0x" + "f" * 2000, "bits"),
        ("xml", "<a><b></a>", "mismatched"),
        ("xml", "<a/><b/>", "junk"),
        ("xml", "<a>&nbsp;</a>", "undefined entity"),
        ("xml", "<!DOCTYPE a><a/>", "document type"),
        ("csv", "a,b", "header"),
        ("csv", "a,a\n1,2", "twice"),
        ("csv", "a,\n1,2", "empty"),
        ("csv", "a,b\n1", "cells"),
        ("csv", 'a,b\n1,"2', "end of data"),
    ],
)
def test_parsers_refuse_what_is_broken_or_ambiguous(name: FormatName, text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        FORMATS[name].read(text)
    assert not caught.value.absent


def test_yaml_quotes_numbers_of_either_version_and_every_time_of_day() -> None:
    value: Any = {"a": "0989", "b": "1e5", "c": "0o7", "d": "08:45", "e": "12:30"}
    text = "a: '0989'\nb: '1e5'\nc: '0o7'\nd: '08:45'\ne: '12:30'"
    assert FORMATS["yaml"].write(value, one_line=False) == text


@pytest.mark.parametrize(
    "text",
    ["0", "-0", "12", "007", "1.50", "-0.0", "00", "1e5", "1.5e+3", "1_000", "12:30", "0x1f", "0b1", "-12.5", "+1", ".5", "5.", "9" * 30, "0.1" + "1" * 30],
)  # fmt: skip
def test_an_unquoted_number_of_yaml_means_what_safe_load_reads(text: str) -> None:
    found = FORMATS["yaml"].parse(f"- {text}")
    assert repr(found) == repr(yaml.safe_load(f"- {text}"))
