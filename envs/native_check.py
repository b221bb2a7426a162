"""Is pixi.lock what pixi.toml asks for? The offline checks of `pixi install --locked`, and this workspace's own rules.

pixi's part follows pixi 0.77 (crates/pixi_core/src/lock_file in https://github.com/prefix-dev/pixi): every environment
on every platform has what it asks for, each package has what it needs, and nothing else is there; channels, options
and platforms are the manifest's; environments of one solve group agree. Our own: conda-forge alone, a sha256 for
every file, and no Python distribution besides Python, because `sync` makes the Python packages exactly the other lock.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import manifest_model
from manifest_model import Manifest, Platform
from strict_table import ManifestError

if TYPE_CHECKING:
    from rattler import MatchSpec, PackageRecord
    from rattler.lock import Environment

CONDA_FORGE = "https://conda.anaconda.org/conda-forge/"
VERSION = 7  # pixi 0.68 and newer; the first with platforms that have virtual packages of their own
# What pixi writes for settings that pixi.toml does not make (it makes none: the model knows no key for them).
OPTIONS = {"strategy": "highest", "channel-priority": "strict", "pypi-prerelease-mode": "if-necessary-or-explicit"}
NATIVE_PYTHON = {"python", "uv"}  # uv is a bare program: it needs no Python
NEEDS_PYTHON = re.compile(r"(python|python_abi|pypy)( |$)")
AGAIN = "run `./pixiw run lock`"

Records = dict[str, "PackageRecord"]


def problems(manifest: Manifest, path: Path) -> list[str]:
    """What is wrong with the lock, one line each, ready to be read; needs py-rattler, and no network."""
    import yaml
    from rattler import LockFile
    from rattler.exceptions import ParseCondaLockError

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 (both loaders are safe)
        if not isinstance(raw, dict) or raw.get("version") != VERSION:
            version = raw.get("version") if isinstance(raw, dict) else None
            return [f"{path.name}: format version {version}: expected {VERSION}: {AGAIN}"]
        environments = dict(LockFile.from_path(path).environments())
    except OSError as fault:
        return [f"{path.name}: cannot be read ({fault.strerror}): {AGAIN}"]
    except (yaml.YAMLError, ParseCondaLockError) as fault:
        what = f"{path.name}: cannot be understood: {' '.join(str(fault).split())}"
        return [f"{what}: take the committed one, or {AGAIN}"]
    found = [*_rules(manifest, raw), *_platforms(manifest, raw)]
    groups: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for name in sorted({*environments, *manifest.environments}):
        if name not in manifest.environments:
            found.append(f"environment '{name}' is locked, but not in pixi.toml: {AGAIN}")
        elif name not in environments:
            found.append(f"environment '{name}' of pixi.toml is not locked: {AGAIN}")
        else:
            found += _settings(manifest, name, raw["environments"][name])
            for platform, files, records in _locked(manifest, name, environments[name], found):
                try:
                    contents = list(_contents(manifest, name, platform, records))
                except ManifestError as fault:
                    contents = [str(fault)]
                found += [f"{name} on {platform.name}: {text}" for text in contents]
                group = manifest.environments[name].solve_group
                groups.setdefault((group, platform.name), {})[name] = files
    return [f"{path.name}: {text}" for text in [*found, *_disagreements(groups)]]


def _rules(manifest: Manifest, raw: dict[str, Any]) -> Iterator[str]:
    """Our own rules, and packages that no environment uses."""
    if manifest.channels != (CONDA_FORGE,):
        yield f"the channels of pixi.toml are {', '.join(manifest.channels)}: expected {CONDA_FORGE} alone"
    tables = [environment.get("packages") or {} for environment in raw["environments"].values()]
    used = {place for table in tables for files in table.values() for entry in files for place in entry.values()}
    for package in raw.get("packages") or []:
        if "conda" not in package:
            kind, place = next(iter(package.items()))
            yield f"{place}: a {kind} package: expected conda packages only; Python's are in envs/<name>/requirements.lock"
            continue
        address = str(package["conda"])
        name, file = package_name(address), address.rpartition("/")[2]
        if not address.startswith(CONDA_FORGE):
            yield f"{file}: comes from {address}: expected {CONDA_FORGE}"
        if not re.fullmatch(r"[0-9a-f]{64}", str(package.get("sha256", ""))):
            yield f"{file}: has no sha256: expected one for every file: {AGAIN}"
        needs = [text for text in package.get("depends", []) if NEEDS_PYTHON.match(text)]
        if name not in NATIVE_PYTHON and (needs or package.get("noarch") == "python"):
            yield f"{file}: a Python distribution (needs {needs[0] if needs else 'python'}): expected in the Python lock"
        if address not in used:
            yield f"{file}: no environment uses it: {AGAIN}"


def _platforms(manifest: Manifest, raw: dict[str, Any]) -> Iterator[str]:
    """Platforms of the lock that pixi.toml does not declare (the other way round, environments miss them)."""
    declared = {platform.identity for platform in manifest.platforms}
    for entry in raw["platforms"]:
        subdir, virtual = entry.get("subdir", entry["name"]), entry.get("virtual-packages", [])
        if manifest_model.identity(subdir, virtual) not in declared:
            yield f"platform {entry['name']} ({_describe(subdir, virtual)}) is not declared in pixi.toml: {AGAIN}"


def _settings(manifest: Manifest, name: str, raw: dict[str, Any]) -> Iterator[str]:
    """Channels and options of one environment."""
    channels = [str(entry.get("url")) for entry in raw["channels"]]
    if channels != list(manifest.channels):
        yield f"{name}: channels {', '.join(channels) or 'none'}: expected {', '.join(manifest.channels)}: {AGAIN}"
    for key, value in (raw.get("options") or {}).items():
        if OPTIONS.get(key) != value:
            yield f"{name}: option {key} = {value}: expected {OPTIONS.get(key, 'no such option')}: {AGAIN}"
    for key in sorted(set(raw) - {"channels", "options", "packages"}):
        yield f"{name}: '{key}' is locked: expected channels, options and packages only: {AGAIN}"


def _locked(
    manifest: Manifest, name: str, environment: Environment, found: list[str]
) -> Iterator[tuple[Platform, dict[str, str], Records]]:
    """(platform, package -> file, package -> record) of one environment; what is amiss with platforms goes to `found`."""
    by_identity = {manifest_model.identity(str(p.subdir), p.virtual_packages): p for p in environment.platforms()}
    for platform in manifest.platforms_of(name):
        locked = by_identity.pop(platform.identity, None)
        if locked is None:
            what = _describe(platform.subdir, platform.virtual_packages)
            found.append(f"{name}: platform {platform.name} ({what}) of pixi.toml is not locked: {AGAIN}")
            continue
        files: dict[str, str] = {}
        records: Records = {}
        for record in environment.conda_repodata_records_for_platform(locked) or []:
            package = record.name.normalized
            if package in files:
                fault = f"{package} is locked twice, as {files[package]} and {record.file_name}"
                found.append(f"{name} on {platform.name}: {fault}: {AGAIN}")
            files[package], records[package] = record.file_name, record
            if record.subdir not in (platform.subdir, "noarch"):
                fault = f"{record.file_name} is for {record.subdir}: expected {platform.subdir} or noarch"
                found.append(f"{name} on {platform.name}: {fault}: {AGAIN}")
        yield platform, files, records
    extra = [platform.name for platform in by_identity.values()]
    found += [f"{name}: platform {each} is locked, but is none of this environment's: {AGAIN}" for each in extra]


def _contents(manifest: Manifest, name: str, platform: Platform, records: Records) -> Iterator[str]:
    """What is missing or does not fit, what constraints are broken, and what nothing asks for."""
    present = records | {record.name.normalized: record for record in map(_virtual, platform.virtual_packages)}
    todo = [(spec, "pixi.toml") for spec in manifest.specs(name, platform)]
    unmet: dict[str, list[str]] = {}
    seen: set[str] = set()
    while todo:
        text, asker = todo.pop(0)
        package, spec = parse_spec(text, asker)
        if package not in present or not spec.matches(present[package]):
            unmet.setdefault(package, []).append(f"{asker} asks for '{text}'")
        if package in records and package not in seen:
            seen.add(package)
            todo += [(needed, package) for needed in records[package].depends]
    for package, reasons in unmet.items():
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        have = f"{package} {present[package].version} does not fit" if package in present else f"{package} is missing"
        yield f"{have}: {reasons[0]}{more}: {AGAIN}"
    for package, record in records.items():
        for text in record.constrains:
            other, spec = parse_spec(text, package)
            if other in present and not spec.matches(present[other]):
                yield f"{other} {present[other].version} does not fit: {package} allows only '{text}': {AGAIN}"
    for package in sorted(set(records) - seen):
        yield f"{package} is locked, but nothing asks for it: {AGAIN}"


def _disagreements(groups: dict[tuple[str, str], dict[str, dict[str, str]]]) -> Iterator[str]:
    """Where environments that are solved together have different files of one package."""
    for (group, platform), members in groups.items():
        names = sorted(members) if group else []
        for one, other in itertools.pairwise(names):
            for package in sorted(set(members[one]) & set(members[other])):
                if members[one][package] != members[other][package]:
                    have = f"{one} has {members[one][package]}, {other} has {members[other][package]}"
                    yield f"solve group '{group}' on {platform}: {have}: expected the same file: {AGAIN}"


def parse_spec(text: str, asker: str) -> tuple[str, MatchSpec]:
    """(package, spec) of what `asker` needs; ManifestError where it is no conda spec."""
    from rattler import MatchSpec
    from rattler.exceptions import InvalidMatchSpecError

    try:
        spec = MatchSpec(text)
    except InvalidMatchSpecError as fault:
        raise ManifestError(f"{asker} asks for '{text}': expected a conda spec: {fault}") from fault
    return spec.name.normalized, spec


def split_virtual(text: str) -> tuple[str, str, str]:
    """(name, version, build) of a virtual package as the lock writes it: '__cuda=12.8', '__archspec=0=x86_64'."""
    name, version, *build = text.split("=")
    return name, version, build[0] if build else "0"


def _virtual(text: str) -> PackageRecord:
    from rattler import BuildString, PackageRecord

    name, version, build = split_virtual(text)
    return PackageRecord(name=name, version=version, build=BuildString(build), build_number=0, subdir="noarch")


def _describe(subdir: str, virtual_packages: Iterable[str]) -> str:
    return ", ".join(manifest_model.identity(subdir, virtual_packages))


def package_name(address: str) -> str:
    """The package's name from the address of its file: NAME-VERSION-BUILD.conda."""
    return address.rpartition("/")[2].rsplit("-", 2)[0]
