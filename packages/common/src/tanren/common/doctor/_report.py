"""The findings for a person: sections of rows as they become known, and at the end what there is to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from tanren.common.console import Console
from tanren.common.doctor._finding import Finding, Verdict, worst

_STYLES = {Verdict.OK: None, Verdict.WARNING: "yellow", Verdict.UNKNOWN: "yellow", Verdict.REFUSED: "bold red"}
_VERDICT, _WHAT = 8, 28  # widths of the first two columns
_NAMED = 4  # findings that a fix names: more are counted
FEW = 12  # rows that are seen at one glance: below, a list of what to do would only repeat them


class Report:
    """Prints and keeps the findings."""

    def __init__(self, console: Console) -> None:
        """Print to a console; rows are wrapped on a terminal alone, so that a file can be searched by line."""
        self.findings: list[Finding] = []
        self._console = console
        self._width = console.rich.width if console.live else None

    def headline(self, text: str) -> None:
        """Print the first line, before anything is looked at."""
        self._console.text(text if self._width is None else textwrap.fill(text, self._width))

    def section(self, heading: str, findings: Iterable[Finding]) -> None:
        """Print the findings as they come, under a heading; no heading where there is none."""
        before = ""
        for number, finding in enumerate(findings):
            if number == 0:
                self._console.text(f"\n{heading}", style="bold")
            self.findings.append(finding)
            text = as_text(finding, self._width, with_fix=finding.fix != before)
            self._console.text(text, style=_STYLES[finding.verdict])
            before = finding.fix

    def close(self, environment: str, seconds: float) -> Verdict:
        """Print what there is to do and the verdict in one line; return it."""
        if len(self.findings) > FEW:
            self._to_do()
        verdict = worst(self.findings)
        counts = [(v, sum(finding.verdict is v for finding in self.findings)) for v in reversed(Verdict)]
        shown = ", ".join(f"{count} {v}" for v, count in counts if count)
        self._console.text(f"\n{environment}: {verdict} ({shown}; {seconds:.1f} s)", style=_STYLES[verdict])
        return verdict

    def _to_do(self) -> None:
        """Each fix once, the most pressing first, with what it is for."""
        fixes: dict[str, list[Finding]] = {}
        for verdict in reversed(Verdict):
            for finding in self.findings:
                if finding.verdict is verdict and verdict is not Verdict.OK:
                    fixes.setdefault(finding.fix, []).append(finding)
        if not fixes:
            return
        self._console.text("\nTo do", style="bold")
        for number, (fix, of) in enumerate(fixes.items(), 1):
            verdict = worst(of)
            named = ", ".join(finding.what for finding in of[:_NAMED])
            more = f" and {len(of) - _NAMED} more" if len(of) > _NAMED else ""
            self._console.text(f"{number:>2}. {verdict}: {named}{more}\n    {fix}", style=_STYLES[verdict])


def as_text(finding: Finding, width: int | None = None, *, with_fix: bool = True) -> str:
    """Return a finding as its row: verdict, what, found; where all is not well also what is needed, and below it the fix.

    With a width what was found is wrapped in its column. A fix never is: it is there to be copied. Without it (the row
    before had the same) the row is the rest.
    """
    head = f"{finding.verdict:<{_VERDICT}} {finding.what:<{_WHAT}} "
    said = finding.found if finding.verdict is Verdict.OK else f"{finding.found}; needed: {finding.needed}"
    row = head + said
    if width is not None:
        row = textwrap.fill(
            said,
            max(width, 60),
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
    if finding.verdict is Verdict.OK or not with_fix:
        return row
    return f"{row}\n{'':<{_VERDICT}} fix: {finding.fix}"
