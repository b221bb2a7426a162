"""Is there room on the disks: for the environment, its caches, the runs, models, and what compilers write?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tanren.common.doctor._finding import Finding, Verdict
from tanren.common.doctor._hub import hub_places
from tanren.common.doctor._subject import Subject

GIB = 2**30
GPU_ENVIRONMENT = (12.0, 150_000)
"""GiB and files. b300's Python packages with their bytecode are 9.9 GB (benchmarks/LOG.md) in 92,500 files, its native
packages 0.5 GB compressed, about 2 GB unpacked."""
CPU_ENVIRONMENT = (3.0, 90_000)
"""2.2 GB in 60,500 files, and 0.3 GB compressed. (Where no CPU build of torch can be had: 4.6 GB.)"""
RUNS = (1.0, 10.0)
"""GiB that a run must and should have: an adapter with its optimizer's state is 0.1 to 0.5, and several are kept."""
CACHE = 2.0  # GiB that the Hugging Face cache should have: a small model; a recipe's own model is asked for by its size
TEMPORARY = (0.1, 1.0)  # GiB: compiled kernels of Triton and torch.compile go there
FILES = (1_000, 20_000)
"""Files that may still be made, at least and better: a run makes hundreds, the cache of compiled kernels thousands."""


@dataclass(frozen=True)
class Room:
    """What a file system has left."""

    device: int
    """Its number: two folders with the same one share the room."""
    mount: str
    free_gib: float
    size_gib: float
    free_files: int | None
    """None where the file system sets no limit of its own."""
    writable: bool = True


@dataclass(frozen=True)
class Place:
    """A folder that will be written to, and what that takes."""

    name: str
    path: Path
    least_gib: float
    good_gib: float
    files: int = 0
    must_write: bool = True


def check_disk(subject: Subject, room_of: Callable[[Path], Room] | None = None) -> Iterator[Finding]:
    """Yield one row for each file system that is written to; what several folders take of one is added up."""
    disks: dict[int, list[tuple[Place, Room]]] = {}
    for place in places(subject):
        room = (room_of or read_room)(place.path)
        disks.setdefault(room.device, []).append((place, room))
    for of in disks.values():
        yield _finding(of)


def places(subject: Subject) -> Iterator[Place]:
    """Yield what is written to: while the environment is not installed yet, its folder and the packages' caches too."""
    if not subject.installed:
        size, files = GPU_ENVIRONMENT if subject.profile.cuda else CPU_ENVIRONMENT
        yield Place("environment", subject.prefix, size, size, files)
        for name, path in package_caches(subject):
            if _existing(path).stat().st_dev != _existing(subject.prefix).stat().st_dev:
                yield Place(name, path, size, size, files)  # on one disk the files are linked, and take no more room
    yield Place("runs", subject.root / "runs", *RUNS)
    yield Place("Hugging Face cache", hub_places(subject.variables).cache, 0.0, CACHE, must_write=False)
    yield Place("temporary files", Path(tempfile.gettempdir()), *TEMPORARY)


def package_caches(subject: Subject) -> Iterator[tuple[str, Path]]:
    """Yield the caches of pixi (RATTLER_CACHE_DIR, PIXI_CACHE_DIR) and uv (UV_CACHE_DIR)."""
    own = subject.variables
    user = Path(own.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if subject.is_pixi or subject.profile.cuda:
        yield "pixi's cache", Path(own.get("PIXI_CACHE_DIR") or own.get("RATTLER_CACHE_DIR") or user / "rattler")
    yield "uv's cache", Path(own.get("UV_CACHE_DIR") or user / "uv")


def read_room(path: Path) -> Room:
    """Return the room where a folder is, or would be made."""
    folder = _existing(path)
    device = folder.stat().st_dev
    mount = folder.resolve()
    while mount.parent != mount and mount.parent.stat().st_dev == device:
        mount = mount.parent
    facts = os.statvfs(folder)
    return Room(
        device,
        str(mount),
        facts.f_bavail * facts.f_frsize / GIB,
        facts.f_blocks * facts.f_frsize / GIB,
        facts.f_favail if facts.f_files else None,  # btrfs and some network file systems count none
        os.access(folder, os.W_OK),
    )


def _finding(of: list[tuple[Place, Room]]) -> Finding:
    room = of[0][1]
    names = ", ".join(place.name + (f" ({place.least_gib:.0f} GiB)" if place.files else "") for place, _ in of)
    least, good = sum(place.least_gib for place, _ in of), sum(place.good_gib for place, _ in of)
    files = sum(place.files for place, _ in of)
    what = f"disk {room.mount}"
    found = f"{room.free_gib:.1f} of {room.size_gib:.1f} GiB free, for: {names}"
    needed = f"{max(least, good):.1f} GiB"
    if closed := [place for place, at in of if place.must_write and not at.writable]:
        found = f"{closed[0].path} ({closed[0].name}) cannot be written by this user"
        return Finding(what, found, "a folder that can be written", Verdict.REFUSED, f"chown or chmod {closed[0].path}")
    elsewhere = "free some space, or move a part of it: " + ", ".join(_moves(of))
    if room.free_gib < least:
        return Finding(what, found, f"{least:.1f} GiB, better {good:.1f}", Verdict.REFUSED, elsewhere)
    if room.free_files is not None and room.free_files < files + FILES[1]:
        found = f"room for {room.free_files:,} more files ({room.free_gib:.1f} GiB free), for: {names}"
        verdict = Verdict.REFUSED if room.free_files < files + FILES[0] else Verdict.WARNING
        fix = f"delete many small files (`du --inodes -x {room.mount} | sort -n | tail` finds them)"
        return Finding(what, found, f"{files + FILES[1]:,} files", verdict, fix)
    if room.free_gib < good:
        return Finding(what, found, needed, Verdict.WARNING, elsewhere)
    return Finding(what, found, needed, Verdict.OK)


def _moves(of: list[tuple[Place, Room]]) -> Iterator[str]:
    ways = {
        "runs": "--output.runs FOLDER",
        "Hugging Face cache": "HF_HOME",
        "temporary files": "TMPDIR",
        "pixi's cache": "PIXI_CACHE_DIR",
        "uv's cache": "UV_CACHE_DIR",
        "environment": "a clone on a larger disk",
    }
    yield from (f"{place.name} by {ways[place.name]}" for place, _ in of)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
