"""Hostile completions: every parser ends in time, with a value or with its one error."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tanren.common.task_contract import Row, Verdict
from tasks.structured.answers import judge
from tasks.structured.formats import FORMATS, FormatName
from tasks.structured.limits import MAX_BYTES, MAX_DEPTH, FormatError

_SECONDS = 0.5
"""Measured: at most 0.04 s. Ten times that leaves room for a busy machine, and quadratic cost still shows."""


def _filled(head: str, unit: str) -> str:
    return head + unit * ((MAX_BYTES - len(head)) // len(unit.encode()))


_NUMBERED = "\n".join(f"k{i} = 1" for i in range(2000))[: 15 * 1024].rpartition("\n")[0]
_LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
_ENTITIES = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "lol"}">' for i in range(10))
_HEADS = (
    "", "[", '{"a": ', '"', "<a>", "a: ", 'a = "', "a = [", "a = {", 'a = """',
    "a,b\n", 'a,b\n"', "a: |\n ", "```\n",
)  # fmt: skip
_UNITS = (
    "[", "{", "[],", "a: ", "- ", '"', "\\", "\\n", "'", "<a/>", "&a", "*a ", "=", "a=1\n", "a.",
    "x,y\n", "1,", "日", " ", "\n", "#",
)  # fmt: skip
_TEXTS = {
    "deep list": "[" * 100_000,
    "deep list within the bytes": "[" * 60_000,
    "deep mapping": '{"a":' * 10_000,
    "deep elements": "<a>" * 20_000,
    "deep block": "\n".join(" " * i + "a:" for i in range(350)),
    "deep dashes": "- " * 30_000,
    "deep dotted key": "a." * 8_000 + "a = 1",
    "deep quoted key": '"a".' * 4_000 + "a = 1",
    "deep inline tables": "x = " + "{a = " * 3_000,
    "many keys under a deep header": f"[{'.'.join('a' * 60)}]\n{_NUMBERED}",
    "many deep keys": "\n".join(f"{'.'.join('a' * 60)}.k{i} = 1" for i in range(120)),
    "million digits": "1" * 10**6,
    "many digits in JSON": "[" + "1" * 60_000 + "]",
    "many digits in YAML": "a: " + "1" * 60_000,
    "sexagesimal digits in YAML": "a: 1" + ":1" * 30_000,
    "many digits in TOML": "a = " + "1" * 16_000,
    "hexadecimal in TOML": "a = 0x" + "f" * 16_000,
    "billion laughs in YAML": _LAUGHS,
    "billion laughs in XML": f"<!DOCTYPE a [{_ENTITIES}]><a>&e9;</a>",
    "external entity": '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>',
    "many attributes": "<a " + " ".join(f'a{i}="1"' for i in range(6000)) + "/>",
    "repeated key at the end": "{" + ",".join(f'"k{i}": 1' for i in range(2900)) + ', "k2899": 1}',
    "lone surrogate": '{"a": "\ud800"}',
    "NUL": '{"a": "\0"}',
    "megabytes": '{"a": 1} ' * 10**6,
    **{f"{head!r} {unit!r}": _filled(head, unit) for head in _HEADS for unit in _UNITS},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_texts_end_in_time_with_a_value_or_the_one_error(name: FormatName) -> None:
    for label, text in _TEXTS.items():
        # Processor time, and the best of three: a busy machine or a collection of garbage is no hang.
        assert any(_seconds(name, text) < _SECONDS for _ in range(3)), label


def _seconds(name: FormatName, text: str) -> float:
    start = time.process_time()
    with suppress(FormatError):
        FORMATS[name].read(text)
    return time.process_time() - start


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("json", "deep list"),
        ("json", "deep list within the bytes"),
        ("json", "many digits in JSON"),
        ("json", "lone surrogate"),
        ("json", "NUL"),
        ("json", "megabytes"),
        ("yaml", "deep block"),
        ("yaml", "deep dashes"),
        ("yaml", "billion laughs in YAML"),
        ("yaml", "many digits in YAML"),
        ("yaml", "sexagesimal digits in YAML"),
        ("toml", "deep dotted key"),
        ("toml", "deep quoted key"),
        ("toml", "deep inline tables"),
        ("toml", "many digits in TOML"),
        ("toml", "hexadecimal in TOML"),
        ("xml", "deep elements"),
        ("xml", "billion laughs in XML"),
        ("xml", "external entity"),
        ("xml", "many attributes"),
    ],
)
def test_hostile_texts_are_refused(name: FormatName, label: str) -> None:
    with pytest.raises(FormatError):
        FORMATS[name].read(_TEXTS[label])


@pytest.mark.parametrize(
    ("name", "opening", "closing"),
    [("json", "[", "]"), ("yaml", "[", "]"), ("xml", "<a>", "</a>")],
)
def test_the_depth_limit_is_exact(name: FormatName, opening: str, closing: str) -> None:
    FORMATS[name].read(opening * MAX_DEPTH + closing * MAX_DEPTH)
    with pytest.raises(FormatError, match="deeper"):
        FORMATS[name].read(opening * (MAX_DEPTH + 1) + closing * (MAX_DEPTH + 1))


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_no_text_raises_anything_but_the_one_error(name: FormatName, data: st.DataObject) -> None:
    pieces = st.sampled_from(
        [
            *"[]{}<>/:,=\"'\\#&*!|-?.%@`\n\r\t \0",
            "a",
            "1",
            "item",
            "&amp;",
            "é",
            "\ud800",
            "]]>",
            "<?",
            "<!",
            "---\n",
        ]
    )
    text = data.draw(st.lists(pieces, max_size=40).map("".join) | st.text(max_size=60))
    with suppress(FormatError):
        FORMATS[name].parse(text)
    parsed = judge(text, Row("r", (), "", name, expected={"a": 1}))
    assert parsed.verdict in Verdict
    assert bool(parsed.error) == (parsed.verdict is not Verdict.CORRECT)
