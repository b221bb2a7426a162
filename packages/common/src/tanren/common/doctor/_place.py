"""Is this the environment that was meant: its name, its Python, and its packages installed to the end?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tanren.common.doctor._finding import Finding, Verdict, judge
from tanren.common.doctor._subject import Subject

STAMP = "tanren-sync.stamp"
"""What envs/sync.py writes last."""


def check_place(subject: Subject) -> Iterator[Finding]:
    """Yield whether the process runs in the environment; where one is refused, the others say nothing about it."""
    if not subject.runs:
        yield _other(subject)
        return
    yield _name(subject)
    yield _python(subject)


def check_stamp(subject: Subject) -> Iterator[Finding]:
    """Yield whether the last sync of the environment's packages came to its end."""
    stamp = subject.prefix / STAMP
    there = stamp.is_file()
    yield judge(there, "sync", "complete" if there else f"no {stamp}", "a complete one", subject.run("sync"))


def _other(subject: Subject) -> Finding:
    """Of an environment that this process does not run in: whether it is there, and its Python starts."""
    what, needed = "environment", subject.environment
    if not subject.installed:
        found = f"{subject.environment} is not installed yet: only the machine is judged"
        return Finding(what, found, needed, Verdict.WARNING, f"install it: {subject.run('sync')}")
    if subject.fault:
        return Finding(what, subject.fault, needed, Verdict.REFUSED, subject.reinstall)
    found = f"{subject.prefix}; not the one that runs: what its activation sets is not looked at"
    return Finding(what, found, needed, Verdict.OK)


def _name(subject: Subject) -> Finding:
    found = subject.variables.get("PIXI_ENVIRONMENT_NAME", "")
    otherwise = Verdict.REFUSED if found or subject.named else Verdict.WARNING
    shown = found or "none: started outside pixi and pixiw"
    fix = subject.run("doctor")
    return judge(found == subject.environment, "environment", shown, subject.environment, fix, otherwise=otherwise)


def _python(subject: Subject) -> Finding:
    variable = "CONDA_PREFIX" if subject.is_pixi else "VIRTUAL_ENV"
    active = subject.variables.get(variable, "")
    is_active = bool(active) and Path(active).resolve() == subject.prefix.resolve()
    # pixi names the folder after the environment; of all environments only the CPU one can be a venv
    is_meant = subject.prefix.name == subject.environment if subject.is_pixi else subject.profile.cuda is None
    needed = f"the Python of the environment {subject.environment}"
    return judge(is_active and is_meant, "this Python's folder", str(subject.prefix), needed, subject.run("doctor"))
