"""The wheels of a bundle: for every package of a Python lock the best file for the target, and where it can be had.

A lock holds hashes and no addresses. uv says which files an index has for the locked versions; what is chosen is
always a file whose sha256 stands in the lock.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from packaging.markers import Marker
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from tanren.common.errors import MachineError, UserError
from tanren.common.workspace import sha256_of

from ._files import Wanted
from ._target import Target

if TYPE_CHECKING:
    from index_settings import Settings
    from lock_format import Entry

# Newer than any that a wheel asks for, so that uv lists all; the target's own tags choose.
NEWEST_GLIBC = "manylinux_2_40"
NEWEST_MACOS = "26.0"
UV_PLATFORMS = {
    "linux-64": f"x86_64-{NEWEST_GLIBC}",
    "linux-aarch64": f"aarch64-{NEWEST_GLIBC}",
    "osx-arm64": "aarch64-apple-darwin",
}


@dataclass(frozen=True)
class Wheel:
    """A wheel that can be had: its file name, address, sha256, and its size where that is known."""

    file: str
    address: str
    sha256: str
    size: int | None = None


def wheel_files(target: Target, locks: Iterable[str], settings: Settings) -> list[Wanted]:
    """Return the wheels of the locks (their texts) for the target; the index is asked for what no wheel folder has.

    Raises MachineError where the index cannot be asked, UserError where a package has no wheel for the target.
    """
    import lock_format

    entries = [entry for text in locks for entry in lock_format.parse(text) if _applies(entry, target)]
    found: dict[str, list[Wheel]] = {entry.name: [] for entry in entries}
    ranks = {tag: rank for rank, tag in enumerate(target.tags())}
    for name, wheel in in_folders(entries, settings.folders, ranks):
        found[name].append(wheel)
    for entry in entries:
        if entry.address:
            found[entry.name].append(Wheel(entry.file, entry.address, entry.hashes[0]))
    # Of one version uv lists the files of one index alone, the first that has any: a small index beside the default one
    # may hide the file that fits.
    for extra_indexes in () if settings.no_index else (True, False):
        open_ones = [entry for entry in entries if not _best(entry, found[entry.name], ranks)]
        if open_ones:
            for name, wheel in ask_uv(open_ones, target, settings, extra_indexes=extra_indexes):
                found[canonicalize_name(name)].append(wheel)
    return [_wanted(entry, found[entry.name], ranks, target, settings) for entry in entries]


def in_folders(entries: Iterable[Entry], folders: Iterable[Path], ranks: dict[Tag, int]) -> Iterator[tuple[str, Wheel]]:
    """Give (package, wheel) for the wheels of the user's folders that the lock names and that run on the target."""
    hashes = {(entry.name, Version(entry.version)): entry.hashes for entry in entries}
    for path in (path for folder in folders for path in sorted(folder.glob("*.whl"))):
        name, version, rank, _ = _read_name(path.name, ranks)
        if version is not None and rank is not None and (name, version) in hashes:
            found = sha256_of(path)
            if found in hashes[name, version]:
                yield name, Wheel(path.name, path.absolute().as_uri(), found, path.stat().st_size)


def ask_uv(
    entries: Iterable[Entry], target: Target, settings: Settings, *, extra_indexes: bool
) -> Iterator[tuple[str, Wheel]]:
    """Give (package, wheel) for every wheel with a sha256 that the user's indexes have of the locked versions."""
    beside = Path(sys.prefix, "bin", "uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise MachineError(
            "uv was not found, neither in this environment nor on PATH: run this command with ./pixiw run"
        )
    environment = {**settings.environment(os.environ), "UV_PYTHON_DOWNLOADS": "never"}
    environment["MACOSX_DEPLOYMENT_TARGET"] = NEWEST_MACOS
    # Folders are looked into by hash; uv would list them instead of the index.
    for name in ("UV_FIND_LINKS", *(() if extra_indexes else ("UV_INDEX", "UV_EXTRA_INDEX_URL"))):
        environment.pop(name, None)
    command = [uv, "pip", "compile", "--quiet", "--no-deps", "--no-header", "--format", "pylock.toml"]
    command += ["--only-binary", ":all:", "--python", sys.executable]
    command += ["--python-version", target.python, "--python-platform", UV_PLATFORMS[target.platform], "-"]
    with tempfile.TemporaryDirectory() as folder:
        asked = "".join(f"{entry.name}=={entry.version}\n" for entry in entries)
        done = subprocess.run(
            command, input=asked, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise MachineError(f"uv could not list the files of the lock: {done.stderr.strip()[-1000:]}")
        for package in tomllib.loads(done.stdout).get("packages", []):
            for wheel in package.get("wheels", []):
                sha256 = wheel.get("hashes", {}).get("sha256")
                address = wheel.get("url") or Path(folder, wheel["path"]).resolve().as_uri()
                if sha256:
                    file = wheel.get("name") or unquote(urlsplit(address).path.rpartition("/")[2])
                    yield package["name"], Wheel(file, address, sha256, wheel.get("size"))


def _best(entry: Entry, wheels: list[Wheel], ranks: dict[Tag, int]) -> Wheel | None:
    """Return the wheel with a locked sha256 that suits the target most; of equal tags the highest build."""
    fitting: list[tuple[int, tuple[Any, ...], int, Wheel]] = []
    for order, wheel in enumerate(wheels):
        _, _, rank, build = _read_name(wheel.file, ranks)
        if rank is not None and wheel.sha256 in entry.hashes:
            fitting.append((-rank, build, -order, wheel))
    return max(fitting)[3] if fitting else None


def _wanted(entry: Entry, wheels: list[Wheel], ranks: dict[Tag, int], target: Target, settings: Settings) -> Wanted:
    best = _best(entry, wheels, ranks)
    if best is None:
        where = "the wheel folders" if settings.no_index else "the index and the wheel folders"
        what = f"{entry.name} {entry.version}: no wheel for Python {target.python} on {target.platform} in {where}"
        seen = f"{len(wheels)} files were found, none that runs there with a sha256 of the lock" if wheels else "none"
        raise UserError(f"{what}: {seen}: look at the index settings (PIP_*, UV_*)")
    return Wanted("wheel", f"wheels/{best.file}", best.address, best.sha256, best.size)


def _applies(entry: Entry, target: Target) -> bool:
    environment: dict[str, str] = target.markers()
    return not entry.marker or Marker(entry.marker).evaluate(environment)


def _read_name(file: str, ranks: dict[Tag, int]) -> tuple[str, Version | None, int | None, tuple[Any, ...]]:
    """Return a wheel's name, version, rank among the target's tags (None: it does not run there) and build."""
    try:
        name, version, build, tags = parse_wheel_filename(file)
    except InvalidWheelFilename:
        return "", None, None, ()
    return name, version, min((ranks[tag] for tag in tags if tag in ranks), default=None), build
