"""Do the installed packages fit one another, whatever the lock says: each one's own word on what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tanren.common.doctor._finding import Finding, Verdict, worst
from tanren.common.doctor._installed import Installed
from tanren.common.doctor._subject import Subject
from tanren.common.errors import UserError

TIED = {
    *(
        "torch",
        "triton",
        "torchvision",
        "torchaudio",
        "vllm",
        "flash-attn",
        "flash-attn-4",
        "flashinfer-python",
        "xformers",
    ),
    *(
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "huggingface-hub",
        "tokenizers",
        "numpy",
        "nvidia-cutlass-dsl",
        "unsloth",
    ),
}
"""Packages that break one another in a run, not only in their metadata: a misfit between two of them is refused."""
SHOWN = 10  # misfits with a row of their own: more would hide the other findings


def check_requirements(subject: Subject) -> Iterator[Finding]:
    """Yield one row with the count, and one for each of the first misfits; the overrides of envs/*.in are respected."""
    installed = {one.name: one for one in subject.distributions}
    misfits = list(misfitting(installed, overrides(subject), subject.python, subject.run("sync --force")))
    misfits.sort(key=lambda finding: finding.verdict is not Verdict.REFUSED)
    found = f"{len(installed)} packages, {len(misfits)} of their needs not met"
    fix = subject.run("sync --force") if misfits else ""
    yield Finding("packages' own needs", found, "all met, but for envs/*overrides.in", worst(misfits), fix)
    yield from misfits[:SHOWN]


def misfitting(
    installed: Mapping[str, Installed], instead: Mapping[str, Requirement], python: str, fix: str
) -> Iterator[Finding]:
    """Yield each requirement that the installed packages do not meet; `instead`: what holds in place of any on that name."""
    for one in installed.values():
        for line in one.requires:
            if "extra" in line.partition(";")[2]:
                continue  # asked for by name only, and no installer records by whom
            try:
                needed = Requirement(line)
            except InvalidRequirement:
                continue  # old metadata, which installers pass over too
            name = canonicalize_name(needed.name)
            needed = instead.get(name, needed)
            if needed.marker is None or needed.marker.evaluate(python_environment(python)):
                yield from _misfit(one, name, needed, installed.get(name), fix)


def overrides(subject: Subject) -> dict[str, Requirement]:
    """Return what the locks were made with in place of others' requirements, by name."""
    files = ["overrides.in", *(["gpu-overrides.in"] if subject.profile.cuda else [])]
    found = (_requirements(subject.root / "envs" / file) for file in files)
    return {canonicalize_name(one.name): one for of in found for one in of}


def python_environment(python: str) -> dict[str, str]:
    """Return what a marker asks of a Python: of the environment's, which may be another than this one."""
    if not python:
        return {}
    return {"python_version": ".".join(python.split(".")[:2]), "python_full_version": python}


def _misfit(one: Installed, name: str, needed: Requirement, found: Installed | None, fix: str) -> Iterator[Finding]:
    what = f"{one.name} needs {name}"
    verdict = Verdict.REFUSED if {one.name, name} <= TIED else Verdict.WARNING
    wanted = str(needed.specifier) or "any version"
    if found is None:
        yield Finding(what, "not installed", wanted, verdict, fix)
    elif not needed.url and not _meets(needed, found.version):
        yield Finding(what, found.version, wanted, verdict, fix)


def _meets(needed: Requirement, version: str) -> bool:
    try:
        return needed.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _requirements(path: Path) -> Iterable[Requirement]:
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text := line.partition(" #")[0].strip():
            if text.startswith("#"):
                continue
            try:
                yield Requirement(text)
            except InvalidRequirement as fault:
                raise UserError(f"{path}, line {number}: {line!r} is no requirement") from fault
