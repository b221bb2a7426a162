"""What the machine, the container and the shell allow this process: memory, shared memory, processes, limits.

Linux keeps the limits of a control group in files, one folder a group, and a process is under the limits of all groups
above its own: https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/memory.html. A fact that the machine
does not have or does not say is None.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 2**30
SHARED_FOLDER = Path("/dev/shm")  # noqa: S108 (looked at, not written to)
_NO_LIMIT = 2**60  # version 1 writes the largest multiple of a page instead of "max"


@dataclass(frozen=True)
class ControlGroup:
    """The least that the process's control group and those above it allow; None for no limit."""

    memory_gib: float | None = None
    memory_free_gib: float | None = None
    """Of the group with the least room: pages of files that can be dropped count as free."""
    memory_file: str = ""
    """What sets the limit."""
    processes: int | None = None
    """Processes and threads."""
    processes_used: int | None = None


@dataclass(frozen=True)
class Limits:
    """The soft limits of this process (`ulimit`), with the hard one where a shell may raise the soft one to it."""

    open_files: int | None = None
    open_files_hard: int | None = None
    processes: int | None = None
    """Of this user, threads included."""
    address_space_gib: float | None = None
    locked_memory_gib: float | None = None
    stack_mib: float | None = None


@dataclass(frozen=True)
class Resources:
    """All of it."""

    memory_gib: float | None = None
    available_gib: float | None = None
    group: ControlGroup = ControlGroup()
    limits: Limits = Limits()
    shared_gib: float | None = None
    """Size of /dev/shm; None where there is none."""
    shared_free_gib: float | None = None
    shared_writable: bool = True
    has_rdma: bool = False
    """Whether there is an InfiniBand or RoCE card."""

    @property
    def capacity_gib(self) -> float | None:
        """Memory that this process could have at most."""
        return _least(self.memory_gib, self.group.memory_gib)

    @property
    def free_gib(self) -> float | None:
        """Memory that it could have now."""
        return _least(self.available_gib, self.group.memory_free_gib)


def read_resources() -> Resources:
    """Return this process's facts; a few milliseconds, and nothing is raised for what cannot be read."""
    memory = psutil.virtual_memory()
    size, free = _room(SHARED_FOLDER)
    return Resources(
        memory_gib=memory.total / GIB,
        available_gib=memory.available / GIB,
        group=read_control_group(),
        limits=_limits(),
        shared_gib=size,
        shared_free_gib=free,
        shared_writable=os.access(SHARED_FOLDER, os.W_OK),
        has_rdma=any(Path("/sys/class/infiniband").glob("*")),
    )


def read_control_group(own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> ControlGroup:
    """Return the limits by control groups, of either version, from the process's own group up to the top."""
    memory: list[tuple[float, float, str]] = []
    processes: list[tuple[int, int]] = []
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in (*_groups(mount, path), *_groups(mount / "unified", path)):
                memory += _memory(folder, "memory.max", "memory.current", "inactive_file")
                processes += _processes(folder)
        elif "memory" in controllers.split(","):
            for folder in _groups(mount / "memory", path):
                memory += _memory(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        elif "pids" in controllers.split(","):
            for folder in _groups(mount / "pids", path):
                processes += _processes(folder)
    limit, used = min(processes, key=lambda pair: pair[0] - pair[1], default=(None, None))
    return ControlGroup(
        memory_gib=min((size for size, _, _ in memory), default=None),
        memory_free_gib=min((free for _, free, _ in memory), default=None),
        memory_file=min(memory, default=(0.0, 0.0, ""))[2],
        processes=limit,
        processes_used=used,
    )


def _groups(mount: Path, path: str) -> Iterator[Path]:
    """The folders of a group and of those above it; in a container its path may be the host's, and not be here."""
    folder = mount / path.lstrip("/")
    while folder != mount and mount in folder.parents:
        if folder.is_dir():
            yield folder
        folder = folder.parent
    if mount.is_dir():
        yield mount


def _memory(folder: Path, limit: str, usage: str, droppable: str) -> Iterator[tuple[float, float, str]]:
    size, used = _number(folder / limit), _number(folder / usage)
    if size is None or size >= _NO_LIMIT:
        return
    files = next(
        (
            int(line.split()[1])
            for line in _text(folder / "memory.stat").splitlines()
            if line.startswith(f"{droppable} ")
        ),
        0,
    )
    free = size - max(0, (used or 0) - files)
    yield size / GIB, max(0, free) / GIB, str(folder / limit)


def _processes(folder: Path) -> Iterator[tuple[int, int]]:
    limit = _number(folder / "pids.max")
    if limit is not None and limit < _NO_LIMIT:
        yield limit, _number(folder / "pids.current") or 0


def _limits() -> Limits:
    def soft(kind: int) -> int | None:
        value = resource.getrlimit(kind)[0]
        return None if value == resource.RLIM_INFINITY else value

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    space, locked = soft(resource.RLIMIT_AS), soft(resource.RLIMIT_MEMLOCK)
    stack = soft(resource.RLIMIT_STACK)
    return Limits(
        open_files=soft(resource.RLIMIT_NOFILE),
        open_files_hard=None if hard == resource.RLIM_INFINITY else hard,
        processes=soft(resource.RLIMIT_NPROC),
        address_space_gib=None if space is None else space / GIB,
        locked_memory_gib=None if locked is None else locked / GIB,
        stack_mib=None if stack is None else stack / 2**20,
    )


def _room(folder: Path) -> tuple[float | None, float | None]:
    try:
        room = os.statvfs(folder)
    except OSError:
        return None, None
    return room.f_blocks * room.f_frsize / GIB, room.f_bavail * room.f_frsize / GIB


def _least(*sizes: float | None) -> float | None:
    return min((size for size in sizes if size is not None), default=None)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
