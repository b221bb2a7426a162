"""All checks in their order, and the answer in rows or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

from packaging.specifiers import SpecifierSet

from tanren.common.console import Console
from tanren.common.doctor._compilers import check_compilers
from tanren.common.doctor._finding import Finding, Verdict, judge, worst
from tanren.common.doctor._gpus import check_gpus
from tanren.common.doctor._host import check_host
from tanren.common.doctor._imports import check_imports
from tanren.common.doctor._modules import check_modules
from tanren.common.doctor._packages import check_packages
from tanren.common.doctor._place import check_place, check_stamp
from tanren.common.doctor._subject import Subject, read_subject
from tanren.common.doctor._toolkit import check_toolkit
from tanren.common.doctor.deep import check_deep
from tanren.common.errors import ExitCode

_STYLES = {Verdict.OK: None, Verdict.WARNING: "yellow", Verdict.UNKNOWN: "yellow", Verdict.REFUSED: "bold red"}


def check_python(subject: Subject) -> Iterator[Finding]:
    """Yield whether the lock was made for this Python."""
    good = SpecifierSet(subject.profile.python).contains(subject.python, prereleases=True)
    yield judge(good, "Python", subject.python, subject.profile.python, subject.reinstall)


CONTENTS: tuple[Callable[[Subject], Iterable[Finding]], ...] = (
    check_stamp,
    check_python,
    check_compilers,
    check_toolkit,
    check_packages,
    check_modules,
    check_imports,  # last: it takes half a minute, all before it a second
)
"""What looks into the environment that this process runs in."""


def examine(subject: Subject, tiers: Iterable[str] = ()) -> Iterator[Finding]:
    """Yield every finding as soon as it is known, those of the tiers of --deep last.

    Of another environment than the one meant only the machine is judged: the rest would describe the wrong one.
    """
    place = list(check_place(subject))
    yield from place
    yield from check_host(subject)
    yield from check_gpus(subject)
    if worst(place) is Verdict.REFUSED:
        found = "not looked at: this is another environment"
        yield Finding("its contents", found, subject.environment, Verdict.UNKNOWN, subject.run("doctor"))
        return
    for check in CONTENTS:
        yield from check(subject)
    yield from check_deep(subject, tiers)


def run_doctor(*, expect_env: str | None, wants_gpu: bool, as_json: bool, tiers: Iterable[str] = ()) -> int:
    """Examine this machine and environment, print the findings, and return the exit code.

    Raises UserError outside a workspace and for an environment that does not exist.
    """
    subject = read_subject(expect_env, wants_gpu)
    console = Console(stream=sys.stderr if as_json else sys.stdout)
    console.text(f"environment {subject.environment}: {subject.profile.why}")
    findings: list[Finding] = []
    for finding in examine(subject, tiers):
        findings.append(finding)
        console.text(as_text(finding), style=_STYLES[finding.verdict])
    verdict = worst(findings)
    counts = ", ".join(f"{sum(f.verdict is v for f in findings)} {v}" for v in Verdict)
    console.text(f"{subject.environment}: {verdict} ({counts})", style=_STYLES[verdict])
    if as_json:
        answer = {"environment": subject.environment, "verdict": verdict, "findings": [asdict(f) for f in findings]}
        json.dump(answer, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    return ExitCode.FOUND_WANTING if verdict is Verdict.REFUSED else ExitCode.DONE


def as_text(finding: Finding) -> str:
    """Return a finding as its row: verdict, what, found; needed and the fix only where all is not well."""
    row = f"{finding.verdict:<8} {finding.what:<28} {finding.found}"
    if finding.verdict is Verdict.OK:
        return row
    return f"{row}; needed: {finding.needed}\n{'':<9}fix: {finding.fix}"
