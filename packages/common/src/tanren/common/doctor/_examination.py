"""All checks in their order and sections, and the answer in rows or as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from packaging.specifiers import SpecifierSet

from tanren.common.console import Console
from tanren.common.doctor._builds import check_builds
from tanren.common.doctor._compilers import check_compilers
from tanren.common.doctor._disk import check_disk
from tanren.common.doctor._finding import Finding, Verdict, judge, worst
from tanren.common.doctor._gpus import check_gpus
from tanren.common.doctor._host import check_driver, check_host
from tanren.common.doctor._hub import check_hub
from tanren.common.doctor._libraries import check_libraries
from tanren.common.doctor._limits import check_limits, check_memory, check_shared_memory
from tanren.common.doctor._modules import check_modules
from tanren.common.doctor._packages import check_packages
from tanren.common.doctor._place import check_place, check_stamp
from tanren.common.doctor._recipe import check_recipe
from tanren.common.doctor._recipe_file import read_recipe
from tanren.common.doctor._report import Report
from tanren.common.doctor._requirements import check_requirements
from tanren.common.doctor._subject import Subject, read_surroundings, with_gpus
from tanren.common.doctor._toolkit import check_toolkit
from tanren.common.doctor._xid import check_xids
from tanren.common.doctor.deep import check_deep
from tanren.common.errors import ExitCode

Check = Callable[[Subject], Iterable[Finding]]


def check_python(subject: Subject) -> Iterator[Finding]:
    """Yield whether the lock was made for this Python."""
    good = SpecifierSet(subject.profile.python).contains(subject.python, prereleases=True)
    yield judge(good, "Python", subject.python, subject.profile.python, subject.reinstall)


MACHINE: dict[str, tuple[Check, ...]] = {
    "Machine": (check_host, check_memory, check_disk),
    "GPUs": (check_driver, check_gpus, check_xids),
    "Limits": (check_shared_memory, check_limits),
}
"""What is judged whichever environment this process runs in; from "GPUs" on NVML has been asked."""

CONTENTS: dict[str, tuple[Check, ...]] = {
    "Python packages": (check_stamp, check_python, check_packages, check_requirements, check_builds),
    "Compilers": (check_compilers, check_toolkit),
}
"""What looks into an environment's folder."""

PROCESS: dict[str, tuple[Check, ...]] = {"Search paths": (check_modules, check_libraries)}
"""What only the process that runs in the environment shows."""

REMOTE: dict[str, tuple[Check, ...]] = {"Hugging Face": (check_hub,), "Recipe": (check_recipe,)}
"""What is fetched for a run; last, since a recipe's model may be asked for on the network."""


def examine(subject: Subject, tiers: Iterable[str] = ()) -> Iterator[Finding]:
    """Yield every finding as soon as it is known, those of the tiers of --deep last."""
    for _, findings in sections(subject, tiers):
        yield from findings


def sections(subject: Subject, tiers: Iterable[str] = ()) -> Iterator[tuple[str, Iterable[Finding]]]:
    """Yield the headings with their findings, which are looked for as they are asked for.

    Of another environment than the one meant only the machine is judged: the rest would describe the wrong one.
    """
    place = list(check_place(subject))
    is_wrong = worst(place) is Verdict.REFUSED
    if is_wrong:
        found, fix = "not looked at: this is another environment", subject.run("doctor")
        place.append(Finding("its contents", found, subject.environment, Verdict.UNKNOWN, fix))
    yield "Environment", place
    looked_into = {} if is_wrong or not subject.installed else CONTENTS | (PROCESS if subject.runs else {})
    for heading, checks in (MACHINE | looked_into | REMOTE).items():
        if heading == "GPUs":
            subject = with_gpus(subject)
        yield heading, chain.from_iterable(check(subject) for check in checks)
    if not is_wrong:
        yield "Proofs", check_deep(subject, tiers)


def run_doctor(
    *,
    expect_env: str | None,
    wants_gpu: bool,
    as_json: bool,
    env: str | None = None,
    recipe: Path | None = None,
    tiers: Iterable[str] = (),
) -> int:
    """Examine this machine and environment, print the findings, and return the exit code.

    Raises UserError outside a workspace, for an environment that does not exist, and for a recipe that is no TOML.
    """
    begun = time.perf_counter()
    named = None if recipe is None else read_recipe(recipe)
    subject = read_surroundings(expect_env, wants_gpu, env=env, recipe=named)
    report = Report(Console(stream=sys.stderr if as_json else sys.stdout))
    report.headline(f"environment {subject.environment}: {subject.profile.why}")
    for heading, findings in sections(subject, tiers):
        report.section(heading, findings)
    verdict = report.close(subject.environment, time.perf_counter() - begun)
    if as_json:
        answer = {
            "environment": subject.environment,
            "verdict": verdict,
            "findings": [asdict(finding) for finding in report.findings],
        }
        json.dump(answer, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    return ExitCode.DONE if verdict in (Verdict.OK, Verdict.WARNING) else ExitCode.FOUND_WANTING
