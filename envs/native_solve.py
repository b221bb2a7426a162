"""Solves pixi.lock from an index folder, without a network, through py-rattler: the library that pixi is made of.

An index folder holds SUBDIR/repodata.json (or .json.xz) for every subdir and for noarch, as conda-forge serves them.
A part of them is enough as long as everything that is asked for is in it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import lzma
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import manifest_model
import native_check
from manifest_model import Manifest, Platform

if TYPE_CHECKING:
    from rattler import LockFile, RepoDataRecord, SparseRepoData


class NativeLockError(Exception):
    """Ends the work with one message; `code` is 2 for the user's mistake, 3 for the machine's."""

    def __init__(self, message: str, code: int = 2) -> None:
        """Keep the exit code beside the message."""
        super().__init__(message)
        self.code = code


def need_rattler(what: str) -> None:
    """Refuse where py-rattler is missing: only the default environment has it."""
    if importlib.util.find_spec("rattler") is None:
        raise NativeLockError(
            f"{what}: py-rattler is not installed here: use the default environment, ./pixiw run lock"
        )


def solve(manifest: Manifest, index: Path, out: Path, previous: Path | None = None) -> None:
    """Solve every environment and write the lock to `out`.

    `previous` is a lock whose versions are kept where they still fit. NativeLockError where the index lacks a file,
    or where there is no solution; ManifestError where a spec of pixi.toml is none.
    """
    need_rattler("nothing was solved")
    from rattler import LockChannel, LockFile, LockPlatform, Subdir

    if manifest.channels != (native_check.CONDA_FORGE,):
        raise NativeLockError(f"pixi.toml: channels {', '.join(manifest.channels)}: expected conda-forge alone")
    names = manifest.lock_names()
    platforms = {
        # The subdir is written only where the name does not say it, as pixi does.
        p.name: LockPlatform(names[p.name], None if p.name == p.subdir else Subdir(p.subdir), list(p.virtual_packages))
        for p in manifest.platforms
    }
    old = _read(previous) if previous else None
    lock = LockFile(list(platforms.values()))
    for name in manifest.environments:
        lock.set_channels(name, [LockChannel(channel) for channel in manifest.channels])
    with tempfile.TemporaryDirectory() as scratch:
        sources = _index(manifest, index, Path(scratch))
        for platform, asked in _questions(manifest):
            place = f"{' and '.join(asked)} on {platform.name}"
            keep = _kept(old, asked, platform) if old else []
            records = _solve(platform, sorted(set().union(*asked.values())), sources, keep, place)
            for name, specs in asked.items():
                for record in _closure(records, specs):
                    lock.add_conda_package(name, platforms[platform.name], record)
    lock.to_path(out)


def _questions(manifest: Manifest) -> Iterator[tuple[Platform, dict[str, list[str]]]]:
    """(platform, environment -> specs) for each solution to be found: solve group by solve group."""
    for group in manifest.solve_groups():
        for platform in manifest.platforms:
            asked = {name: manifest.specs(name, platform) for name in group if platform in manifest.platforms_of(name)}
            if any(asked.values()):
                yield platform, asked


def _index(manifest: Manifest, index: Path, scratch: Path) -> dict[str, SparseRepoData]:
    """Subdir -> its records; packed files are unpacked into `scratch`."""
    from rattler import Channel, SparseRepoData

    channel = Channel(native_check.CONDA_FORGE.rstrip("/"))
    sources = {}
    for subdir in sorted({p.subdir for p in manifest.platforms} | {"noarch"}):
        plain, packed = index / subdir / "repodata.json", index / subdir / "repodata.json.xz"
        if not plain.exists() and packed.exists():
            plain = scratch / f"{subdir}.json"
            try:
                with lzma.open(packed) as source, plain.open("wb") as target:
                    shutil.copyfileobj(source, target)
            except (lzma.LZMAError, EOFError) as fault:
                raise NativeLockError(f"{packed} cannot be unpacked ({fault}): fetch it again") from fault
        if not plain.exists():
            raise NativeLockError(f"{index / subdir}: expected repodata.json or repodata.json.xz, found neither")
        try:
            sources[subdir] = SparseRepoData(channel, subdir, plain)
        except OSError as fault:
            raise NativeLockError(f"{index / subdir}: repodata.json cannot be read: {fault}: fetch it again") from fault
    return sources


def _read(path: Path) -> LockFile:
    from rattler import LockFile
    from rattler.exceptions import ParseCondaLockError

    try:
        return LockFile.from_path(path)
    except ParseCondaLockError as fault:
        what = f"{path} cannot be understood, so its versions cannot be kept: {' '.join(str(fault).split())}"
        raise NativeLockError(f"{what}: take the committed one, or use --upgrade") from fault


def _kept(lock: LockFile, names: Iterable[str], platform: Platform) -> list[RepoDataRecord]:
    """The records that the lock has for these environments on the platform, one for each package."""
    found: dict[str, RepoDataRecord] = {}
    for environment in filter(None, map(lock.environment, names)):
        for locked in environment.platforms():
            if manifest_model.identity(str(locked.subdir), locked.virtual_packages) == platform.identity:
                for record in environment.conda_repodata_records_for_platform(locked) or []:
                    if record.url.startswith(native_check.CONDA_FORGE):
                        found.setdefault(record.name.normalized, record)
    return list(found.values())


def _solve(
    platform: Platform, specs: list[str], sources: dict[str, SparseRepoData], keep: list[RepoDataRecord], place: str
) -> list[RepoDataRecord]:
    """One solution for environments that are solved together, on one platform."""
    from rattler import BuildString, GenericVirtualPackage, PackageName, Version, solve_with_sparse_repodata
    from rattler.exceptions import SolverError

    virtual = [native_check.split_virtual(text) for text in platform.virtual_packages]
    question = solve_with_sparse_repodata(
        specs=[native_check.parse_spec(spec, "pixi.toml")[1] for spec in specs],
        sparse_repodata=[sources[platform.subdir], sources["noarch"]],
        locked_packages=keep,
        virtual_packages=[GenericVirtualPackage(PackageName(n), Version(v), BuildString(b)) for n, v, b in virtual],
    )
    try:
        return asyncio.run(question)
    except SolverError as fault:
        raise NativeLockError(f"{place}: no solution; pixi.lock is as it was: {str(fault).strip()}") from fault


def _closure(records: list[RepoDataRecord], specs: list[str]) -> list[RepoDataRecord]:
    """What of a common solution one environment asks for, directly or through what it asks for."""
    by_name = {record.name.normalized: record for record in records}
    todo, seen = [(spec, "pixi.toml") for spec in specs], set[str]()
    while todo:
        name, _ = native_check.parse_spec(*todo.pop())
        if name in by_name and name not in seen:  # a virtual package is in no solution
            seen.add(name)
            todo += [(text, name) for text in by_name[name].depends]
    return [record for record in records if record.name.normalized in seen]
