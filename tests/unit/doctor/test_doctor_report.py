"""The doctor's answer for a person: sections, rows, and a list of what there is to do."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.console import Console as RichConsole

from tanren.common.console import Console
from tanren.common.doctor import Finding, Verdict
from tanren.common.doctor._report import FEW, Report, as_text

REFUSED = Finding("anvil", "cracked", "whole", Verdict.REFUSED, "take another")
WARNING = Finding("hammer", "worn", "sharp", Verdict.WARNING, "grind it")
TWIN = Finding("tongs", "bent", "straight", Verdict.WARNING, "take another")


def many(*findings: Finding) -> list[Finding]:
    """Return the findings behind so many good ones that they are not seen at one glance."""
    return [*(Finding(f"coal {number}", "black", "black", Verdict.OK) for number in range(FEW)), *findings]


def printed(*findings: Finding, stream: io.StringIO | None = None) -> str:
    """Return what is printed of one section."""
    out = stream or io.StringIO()
    report = Report(Console(stream=out))
    report.headline("environment forge: it is hot")
    report.section("Tools", findings)
    report.section("Empty", [])
    report.close("forge", 1.26)
    return out.getvalue()


def test_rows_stand_under_their_heading_and_an_empty_section_has_none() -> None:
    lines = printed(REFUSED).splitlines()
    assert lines[:4] == ["environment forge: it is hot", "", "Tools", f"refused  {'anvil':<28} cracked; needed: whole"]
    assert "Empty" not in lines
    assert lines[-1] == "forge: refused (1 refused; 1.3 s)"


def test_what_is_to_be_done_is_listed_once_each_the_most_pressing_first() -> None:
    out = printed(*many(WARNING, TWIN, REFUSED))
    to_do = out.partition("To do\n")[2].splitlines()
    assert to_do[:4] == [" 1. refused: anvil, tongs", "    take another", " 2. warning: hammer", "    grind it"]
    assert out.endswith(f"forge: refused (1 refused, 2 warning, {FEW} ok; 1.3 s)\n")


def test_few_rows_and_good_rows_have_no_such_list() -> None:
    assert "To do" not in printed(REFUSED)
    assert "To do" not in printed(*many())


def test_each_row_is_printed_before_the_next_is_looked_for() -> None:
    out = io.StringIO()

    def findings() -> Iterator[Finding]:
        assert out.getvalue() == "environment forge: it is hot\n"
        yield WARNING
        assert "hammer" in out.getvalue()
        yield REFUSED

    report = Report(Console(stream=out))
    report.headline("environment forge: it is hot")
    report.section("Tools", findings())
    assert report.findings == [WARNING, REFUSED]


def test_long_findings_are_wrapped_in_their_column_on_a_terminal_alone_and_fixes_never() -> None:
    long = Finding("anvil", "cracked " * 20, "whole", Verdict.REFUSED, "take --another=" + "x" * 150)
    assert len(as_text(long).splitlines()) == 2
    narrow = as_text(long, 100).splitlines()
    assert all(len(line) <= 100 for line in narrow if "fix: " not in line)
    assert narrow[1].startswith(" " * 38 + "cracked")
    assert narrow[-1].endswith("x" * 150)


def test_rows_with_the_same_fix_say_it_once_and_the_list_counts_them() -> None:
    twins = [replace(TWIN, what=f"tongs {number}") for number in range(6)]
    rows, _, to_do = printed(*many(*twins)).partition("To do\n")
    assert rows.count("fix: take another") == 1
    assert to_do.startswith(" 1. warning: tongs 0, tongs 1, tongs 2, tongs 3 and 2 more\n    take another\n")


@pytest.mark.parametrize(("terminal", "coloured"), [(True, True), (False, False)])
def test_colours_are_for_terminals_alone(terminal: bool, coloured: bool) -> None:
    out = io.StringIO()
    console = Console(stream=out)
    console.rich = RichConsole(file=out, highlight=False, soft_wrap=True, force_terminal=terminal, width=100)
    report = Report(console)
    report.section("Tools", [REFUSED])
    assert ("\x1b[" in out.getvalue()) == coloured
