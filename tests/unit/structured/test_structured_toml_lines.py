"""Plain TOML by lines: what tomllib reads, or left to it."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.structured.options import Options
from tasks.structured.task import rows
from tasks.structured.toml_lines import read_lines

_LINES = (
    "[a]", "[b]", "[a.b]", "[[a]]", "[[a.b]]", "[[b]]", "[a.b.c]", "[ a ]", "[a..b]", "[.]", "[]", "[[]]", "[a] # x", "[a]]", "[[a]",
    "a = 1", "b = 2", "b=1", " a = 1", "a.b = 3", "'c' = 1", "1 = 2", "b = ", "b", "=", "", "\t", "# c", "a = 1 # c", "b = 1\t",
    "b = 01", "b = -0", "b = +1", "b = 1.50", "b = 1e5", "b = 1E5", "b = 1_0", "b = 1.", "b = .5", "b = 0x1", "b = 1e999", "b = nan",
    "b = 123456789012345678901234567890", "b = true", "b = null", "a = 2024-01-02", "a = {x = 1}", "b = [{x = 1}]",
    "c = 'x'", 'c = "x\\n"', 'a = "é{"', 'b = ""', 'b = """"""', 'd = """x', '"""', "a = [", "1]", "b = [1, 2]", 'b = ["x", 1,2]',
    'b = ["x" , 1]', "b = [1,]", "b = [[1], [2]]", "b = [true, -1.5]", 'b = ["\t"]', 'b = "\x7f"', "b = '\x7f'",
)  # fmt: skip


@given(text=st.lists(st.sampled_from(_LINES), max_size=7).map("\n".join))
@example(text="[[a]]\nb = 1\n[a.b]")
@example(text="[a.b]\na = 1\n[a]\nb = 2")
@example(text="[a.b]\n[[a]]")
@example(text="a = {x = 1}\n[a.b]")
@example(text="[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\nc = 2\n[[a.c]]")
@example(text="a = [1]\n[[a]]")
@settings(deadline=None, max_examples=1500)
def test_what_is_read_by_lines_is_what_tomllib_reads(text: str) -> None:
    found = read_lines(text)
    assert found is None or _typed(found) == _typed(tomllib.loads(text))


def _typed(value: Any) -> Any:
    """Return the value with the types of its scalars and the order of its keys."""
    if isinstance(value, dict):
        return [(key, _typed(inner)) for key, inner in value.items()]
    return [_typed(inner) for inner in value] if isinstance(value, list) else (type(value), str(value))


@pytest.mark.parametrize(
    "text", ["[a]\nb = 1\n[a.c]\nd = [1, 2]\n[[e]]\nf = true\n[[e]]\n", "a = 1 # one\n\nb = 'x'", 'a = "\\u00e9"']
)
def test_plain_documents_are_not_left_to_tomllib(text: str) -> None:
    assert read_lines(text) == tomllib.loads(text)


def test_the_packs_own_documents_are_not_left_to_tomllib() -> None:
    options = Options.model_validate({"formats": ["toml"], "heldout_rows": 50})
    for row in rows("heldout", options):
        assert read_lines(row.reference) == tomllib.loads(row.reference), row.id


@pytest.mark.parametrize(
    "text",
    ["a = 1\na = 1", "[a]\n[a]", "a = 1\n[a.b]", "a.b = 1", "a = {}", "a = [\n1]", "a = 1\r\nb = 2\r\n", "a = x", "a = '1'\nb = [\n]"],
)  # fmt: skip
def test_everything_else_and_every_error_is_left_to_tomllib(text: str) -> None:
    assert read_lines(text) is None
