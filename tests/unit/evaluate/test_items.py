"""Items as the pages get them: failures that are alike have one name, and no text ends the script that holds it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.task_contract import Parsed, Verdict
from tanren.evaluate.items import embedded, failure_kinds
from tanren.evaluate.predictions import Prediction


@pytest.mark.parametrize(
    ("verdict", "errors", "kind"),
    [
        ("unparsable", ["JSON: Expecting value (line 1, column 1)", "JSON: Expecting value (line 29, column 8)"], "JSON: Expecting value"),
        ("unparsable", ["XML: unclosed token: line 1, column 0"], "XML: unclosed token"),
        ("unparsable", ["TOML: Expected '=' after a key (at line 1, column 8)"], "TOML: Expected '…' after a key"),
        ("unparsable", ["CSV: record 3 has 2 cells", "CSV: record 40 has 7 cells"], "CSV: record n has n cells"),
        ("wrong", ["items[0].name: found 'a', expected 'b'", "x: found \"it's\", expected ''"], "found '…', expected '…'"),
        ("wrong", ["found -12, expected 3.5"], "found n, expected n"),
        ("absent", [""], ""),
    ],
)  # fmt: skip
def test_failures_that_differ_in_values_alone_are_of_one_kind(verdict: str, errors: list[str], kind: str) -> None:
    named = f"{verdict}: {kind}" if kind else verdict
    for error in errors:
        prediction = Prediction("a", "", "0" * 16, "stop", 1, 1)
        assert failure_kinds(prediction, Parsed(Verdict(verdict), error=error)) == [named]


def test_how_an_answer_ended_is_a_kind_of_its_own() -> None:
    right = Parsed(Verdict.CORRECT)
    ends = {"stop": [], "length": ["cut at the token limit"], "content_filter": ["ended by 'content_filter'"]}
    for end, kinds in ends.items():
        assert failure_kinds(Prediction("a", "", "0" * 16, end, 1, 1), right) == kinds


@given(st.text() | st.sampled_from(["</script>", "<!--<script>", "]]>", "\u2028", "\\u003c"]))
def test_any_text_survives_in_the_page_and_cannot_end_its_script(text: str) -> None:
    inside = embedded({"text": text})
    assert "<" not in inside
    assert json.loads(inside) == {"text": text}


@given(st.text(max_size=300))
def test_any_error_has_a_kind_of_one_line(error: str) -> None:
    [kind] = failure_kinds(Prediction("a", "", "", "stop", 1, 1), Parsed(Verdict.WRONG, error=error))
    assert len(kind) <= len("wrong: ") + 90
