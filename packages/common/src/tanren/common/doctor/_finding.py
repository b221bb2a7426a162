"""One row of the doctor's answer, and what it means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a finding means for a run, in rising order of concern."""

    OK = "ok"
    WARNING = "warning"
    """Training runs; something is not as it should be."""
    UNKNOWN = "unknown"
    """It could not be found out."""
    REFUSED = "refused"
    """Training would fail, or would not be what was locked."""


_ORDER = tuple(Verdict)


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, what is needed, the verdict, and how to put it right."""

    what: str
    found: str
    needed: str
    verdict: Verdict
    fix: str = ""
    """A command or one sentence; empty only where all is well."""

    def __post_init__(self) -> None:
        """A verdict that says 'not good' without saying what to do is a bug."""
        assert self.verdict is Verdict.OK or self.fix, f"{self.what}: {self.verdict} without a fix"


def judge(good: bool, what: str, found: str, needed: str, fix: str, *, otherwise: Verdict = Verdict.REFUSED) -> Finding:
    """Return the finding: ok and without a fix where it is good, else with the verdict `otherwise` and the fix."""
    return Finding(what, found, needed, Verdict.OK) if good else Finding(what, found, needed, otherwise, fix)


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the verdict of most concern; ok for no finding."""
    return max((finding.verdict for finding in findings), key=_ORDER.index, default=Verdict.OK)
