"""Are the installed Python packages exactly the lock?"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from tanren.common.doctor._finding import Finding, Verdict, worst
from tanren.common.doctor._installed import Installed
from tanren.common.doctor._requirements import python_environment
from tanren.common.doctor._subject import Subject
from tanren.common.errors import UserError

SHOWN = 10  # deviations with a row of their own: more would hide the other findings
SEEDS = {"pip", "setuptools", "wheel", "uv"}  # what made the venv, and the installer that sync bootstraps into it
_NOT_LOCKED = "not in the lock"


def check_packages(subject: Subject) -> Iterator[Finding]:
    """Yield one row with the counts, and one for each of the first deviations."""
    name = subject.profile.folder.name
    lock = subject.profile.folder / "requirements.lock"
    if not lock.is_file():
        fix = "take a revision of the workspace that has the lock, or make it: ./pixiw run lock"
        yield Finding("packages", "not compared", f"envs/{name}/requirements.lock", Verdict.REFUSED, fix)
        return
    locked, installed = read_lock(lock, subject.python), versions_by_name(subject.distributions)
    runtime = subject.profile.folder / "cuda-runtime.lock"
    if runtime.is_file() and not _is_cpu_build(installed.get("torch", ())):
        locked |= read_lock(runtime, subject.python)  # what the ordinary torch needs beside it
    allowed = our_projects(subject.root) | (set() if subject.is_pixi else SEEDS)
    deviations = list(compare(locked, installed, allowed, subject.run("sync --force")))
    deviations.sort(key=lambda finding: finding.verdict is not Verdict.REFUSED)  # what matters among the first
    good = len(locked) - sum(finding.needed != _NOT_LOCKED for finding in deviations)
    extra = sum(finding.needed == _NOT_LOCKED for finding in deviations)
    found = f"{good} as locked, {len(locked) - good} not, {extra} extra"
    needed = f"the {len(locked)} of envs/{name}/requirements.lock"
    verdict = worst(deviations)
    yield Finding("packages", found, needed, verdict, subject.run("sync --force") if deviations else "")
    yield from deviations[:SHOWN]


def compare(
    locked: Mapping[str, Version | None], installed: Mapping[str, Sequence[str]], allowed: set[str], fix: str
) -> Iterator[Finding]:
    """Yield the packages that are missing, of another version, there twice, or extra (a warning), by name."""
    for name in sorted(locked.keys() | installed.keys()):
        found, needed = installed.get(name, ()), locked.get(name)
        if name not in locked:
            if name not in allowed:
                yield Finding(f"package {name}", " and ".join(found), _NOT_LOCKED, Verdict.WARNING, fix)
        elif not found:
            yield Finding(f"package {name}", "missing", str(needed or "any"), Verdict.REFUSED, fix)
        elif len(found) > 1:
            twice = f"{' and '.join(found)}: two installations in one folder"
            yield Finding(f"package {name}", twice, str(needed or "one"), Verdict.REFUSED, fix)
        elif needed is not None and not _same(name, needed, Version(found[0])):
            yield Finding(f"package {name}", found[0], str(needed), Verdict.REFUSED, fix)


def read_lock(path: Path, python: str = "") -> dict[str, Version | None]:
    """Return the packages that the lock names for a Python ('': this one) and this machine; None: an address without a version.

    Raises UserError for a line that is no requirement.
    """
    locked: dict[str, Version | None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith((" ", "#", "-")):  # hashes and options
            continue
        try:
            requirement = Requirement(line.removesuffix("\\").strip())
        except InvalidRequirement as fault:
            raise UserError(f"{path}, line {number}: {line!r} is no requirement: make the lock again") from fault
        if requirement.marker is None or requirement.marker.evaluate(python_environment(python)):
            locked[canonicalize_name(requirement.name)] = _version(requirement)
    return locked


def versions_by_name(distributions: Iterable[Installed]) -> dict[str, tuple[str, ...]]:
    """Return the versions of every distribution by name: more than one is a damaged folder."""
    found: dict[str, set[str]] = {}
    for one in distributions:
        found.setdefault(one.name, set()).add(one.version)
    return {name: tuple(sorted(versions)) for name, versions in found.items()}


def our_projects(root: Path) -> set[str]:
    """Return the names of the workspace's own packages, which sync installs editable beside the lock."""
    files = root.glob("packages/*/pyproject.toml")
    return {canonicalize_name(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["name"]) for file in files}


def _version(requirement: Requirement) -> Version | None:
    if requirement.url:
        file = unquote(urlsplit(requirement.url).path.rpartition("/")[2])
        return parse_wheel_filename(file)[1] if file.endswith(".whl") else None
    return next((Version(specifier.version) for specifier in requirement.specifier), None)


def _same(name: str, locked: Version, found: Version) -> bool:
    # sync takes PyTorch's CPU build where it can be had: 2.13.0+cpu is the lock's 2.13.0, by hash.
    if name == "torch" and locked.local is None:
        return found.public == locked.public
    return found == locked


def _is_cpu_build(versions: Sequence[str]) -> bool:
    return sys.platform != "linux" or any(Version(version).local == "cpu" for version in versions)
