"""Answers between code tags: the body is kept as it is, and what was rewritten once stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.chat import MARKERS
from tanren.sft.normalise import BEGIN, END, NotNormalisableError, code_tags

BODY = st.text(min_size=1).filter(lambda text: text.strip() and BEGIN not in text and END not in text)


def tagged(body: str) -> str:
    return f"{BEGIN}\n{body}\n{END}"


@pytest.mark.parametrize(
    ("answer", "body", "kind"),
    [
        ("a = 1\n", "a = 1", "as a whole"),
        ("Approach: x\n\nOutput:\na,b\r\n1,2\r\n", "a,b\r\n1,2", "after a marker"),
        ("Output: {}", " {}", "after a marker"),
        ("Result: no\nOutput:\n{}", "{}", "after a marker"),
        ("Here:\n```json\n{\n  1}\n```\nDone", "{\n  1}", "from a fenced block"),
        ("Output:\n```\nx\n```\n```\ny\n```", "x", "from a fenced block"),
        (f"so {BEGIN}x: `y`{END} ok", "x: `y`", "between tags"),
        (f"{BEGIN}\n```\nx\n```\n{END}", "```\nx\n```", "between tags"),
        ("  indented: 1\n    deeper: 2\n", "  indented: 1\n    deeper: 2", "as a whole"),
        ("x ``` y", "x ``` y", "as a whole"),
    ],
)
def test_the_body_is_found_by_tags_then_fence_then_marker_then_all(answer: str, body: str, kind: str) -> None:
    found = code_tags(answer, MARKERS)
    assert (found.text, found.kind) == (tagged(body), kind)


@given(BODY)
def test_what_stands_between_tags_is_kept_to_the_character_but_the_line_breaks_around_it(body: str) -> None:
    assert code_tags(f"why\n{BEGIN}{body}{END}", MARKERS).text == tagged(body.strip("\r\n"))


@given(st.one_of(BODY, BODY.map(lambda b: f"Why\nOutput:\n{b}"), BODY.map(lambda b: f"so\n```yaml\n{b}\n```\n")))
def test_what_was_rewritten_once_stays_as_it_is(answer: str) -> None:
    try:
        once = code_tags(answer, MARKERS).text
    except NotNormalisableError:
        return
    assert code_tags(once, MARKERS).text == once
    assert code_tags(once, MARKERS).kind == "between tags"


@pytest.mark.parametrize(
    "answer", ["", "\n\n", "Output:\n", f"{BEGIN}\n{END}", f"{BEGIN}a{END} {BEGIN}b{END}", f"a {END}", f"a {BEGIN} b"]
)
def test_an_answer_without_one_body_is_refused(answer: str) -> None:
    with pytest.raises(NotNormalisableError):
        code_tags(answer, MARKERS)
