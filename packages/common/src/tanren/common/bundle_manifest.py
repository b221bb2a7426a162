"""What an air-gapped bundle says of itself, DIR/manifest.json, and whether its files are what it says.

Standard library and Python 3.8 only: envs/bundle_run.py reads it with the machine's own Python, before anything is
installed. The command that makes bundles (tanren.common.bundle) writes it, last of all: without it a bundle is unfinished.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tanren.common.errors import MachineError, UserError
from tanren.common.workspace import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Advance = Callable[[int], None]

MANIFEST = "manifest.json"
PARTIAL = ".partial"  # in the bundle's folder: unfinished downloads, by their sha256
FORMAT = 1


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle."""

    kind: str
    """'conda', 'wheel' or 'pixi'."""
    path: str
    """In the bundle's folder, with forward slashes."""
    size: int
    sha256: str


@dataclass(frozen=True)
class BundleManifest:
    """All of a bundle: what it is for, what it was made from, and every file."""

    environments: tuple[str, ...]
    """The pixi environments that it installs: the one asked for and its other names."""
    python_only: bool
    platform: str
    """As pixi names it: 'linux-64'."""
    machine: str
    """As platform.machine() names it."""
    python: str
    """The version of the bundle's Python, which its wheels are for."""
    channel: str
    """The address that the conda files have in pixi.lock; '' for a Python-only bundle."""
    locks: dict[str, str]
    """The sha256 of every lock that it was made from, by the lock's path in the workspace."""
    files: tuple[BundleFile, ...]

    def text(self) -> str:
        """Return the manifest as it is written."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def read_manifest(folder: Path) -> BundleManifest:
    """Return the manifest of a bundle; UserError where there is none or it is not understood."""
    path = folder / MANIFEST
    if not path.is_file():
        unfinished = (folder / PARTIAL).is_dir()
        fault = "the bundle is unfinished" if unfinished else "this is no bundle"
        remedy = "run the same `tanren bundle` command again" if unfinished else "make one with `tanren bundle`"
        raise UserError(f"{folder} has no {MANIFEST}: {fault}; {remedy}")
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table.pop("format") != FORMAT:
            raise UserError(f"{path}: another version of Tanren made it: make the bundle again with this one")
        files = tuple(BundleFile(**entry) for entry in table.pop("files"))
        return BundleManifest(environments=tuple(table.pop("environments")), files=files, **table)
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(f"{path} is not understood ({fault}): make the bundle again") from fault


def lock_hashes(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of locks by their paths in the workspace; '' for one that is not there."""
    return {path: sha256_of(root / path) if (root / path).is_file() else "" for path in paths}


def extra_files(folder: Path, named: Iterable[str]) -> list[str]:
    """Return what lies in a bundle's folder and is not named, sorted; unfinished downloads are no extras."""
    known = {MANIFEST, *named}
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        if Path(place) == folder and PARTIAL in folders:
            folders.remove(PARTIAL)
        found += [Path(place, name).relative_to(folder).as_posix() for name in files]
    return sorted(set(found) - known)


def refuse_extras(folder: Path, named: Iterable[str]) -> None:
    """Raise UserError where the folder holds something else than the named files."""
    extras = extra_files(folder, named)
    if extras:
        more = f" and {len(extras) - 1} more" if len(extras) > 1 else ""
        fault = f"{folder} holds what is no part of this bundle: {extras[0]}{more}"
        raise UserError(f"{fault}: move it away, or choose another folder")


def check_files(folder: Path, manifest: BundleManifest, advance: Advance | None = None) -> None:
    """Raise MachineError naming the files that are missing or not what the manifest says; reads every byte."""
    faults = []
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file():
            faults.append(f"{file.path} is missing")
        elif path.stat().st_size != file.size:
            faults.append(f"{file.path} has {path.stat().st_size} bytes, expected {file.size}")
        elif (found := sha256_of(path, advance)) != file.sha256:
            faults.append(f"{file.path} has sha256 {found}, expected {file.sha256}")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise MachineError(f"the bundle in {folder} is not whole: {faults[0]}{more}: copy or make it again")
