"""Do memory, shared memory and the shell's limits leave room for a run?"""

from __future__ import annotations

from collections.abc import Iterator

from tanren.common.doctor._finding import Finding, Verdict, judge
from tanren.common.doctor._resources import SHARED_FOLDER
from tanren.common.doctor._subject import Subject
from tanren.common.doctor._visible import visible_gpus

CPU_MEMORY = (2.0, 4.0)
"""GiB that the process must and should have. The quickstart's peak was 3.4 (benchmarks/quickstart.json)."""
GPU_MEMORY = (4.0, 8.0)
"""The same beside a GPU: an import of vLLM and a CUDA context hold over 3, and weights pass through it to the GPU."""
SHARED = 1.0
"""GiB of /dev/shm from which several GPUs are served: NCCL takes 10 to 35 MB a pair of GPUs, vLLM and workers of a data
loader more. A container has 64 MiB unless it is told otherwise."""
SHARED_LEAST = 1 / 64  # GiB: below it not even one buffer of NCCL
CPU_OPEN_FILES, GPU_OPEN_FILES = 256, 4096
"""Each worker of a data loader, each shard of a model and each connection is one. macOS gives 256, Linux mostly 1,024."""
CPU_PROCESSES, GPU_PROCESSES = (64, 512), (256, 2048)
"""Processes and threads that are refused and warned of: each library starts a pool as large as the machine's cores, and
beside a GPU there are vLLM's and the compilers' too."""
STACK = 8.0  # MiB, what Linux gives by default: compilers recurse deeply


def check_memory(subject: Subject) -> Iterator[Finding]:
    """Yield whether the process may have, and has, the memory that any run takes."""
    capacity, free = subject.resources.capacity_gib, subject.resources.free_gib
    if capacity is None or free is None:
        return
    least, good = GPU_MEMORY if subject.profile.cuda else CPU_MEMORY
    group = subject.resources.group
    by_group = group.memory_gib is not None and group.memory_gib == capacity
    found = f"{free:.1f} of {capacity:.1f} GiB free"
    found += f" (limited by {group.memory_file})" if by_group else ""
    more = (
        "give the container or the batch job more memory (docker run --memory=..., sbatch --mem=...)"
        if by_group
        else "use a machine with more memory"
    )
    if capacity < least:
        yield Finding("memory", found, f"{least:.0f} GiB or more in all", Verdict.REFUSED, more)
        return
    fix = more if capacity < good else "end what else uses memory: `ps aux | sort -rnk 6 | head` lists it"
    yield judge(free >= good, "memory", found, f"{good:.0f} GiB free", fix, otherwise=Verdict.WARNING)


def check_shared_memory(subject: Subject) -> Iterator[Finding]:
    """Yield whether /dev/shm is there, can be written, and is large enough for what several GPUs exchange."""
    resources = subject.resources
    size, free, what = resources.shared_gib, resources.shared_free_gib, str(SHARED_FOLDER)
    if subject.profile.cuda is None or not subject.wants_gpu:
        return
    container = "start the container with --shm-size=8g"
    if size is None or free is None or not resources.shared_writable:
        found = "there is none" if size is None else "this user cannot write to it"
        fix = f"mount a tmpfs there: sudo mount -t tmpfs -o mode=1777 tmpfs {what}; {container}"
        yield Finding(what, found, "a folder of memory: NCCL and vLLM exchange through it", Verdict.REFUSED, fix)
        return
    found = f"{_size(free)} of {_size(size)} free"
    several = len(_seen(subject)) > 1
    if several and free < SHARED_LEAST:
        fix = f"look what fills it: ls -lhS {what}; {container}"
        yield Finding(what, found, f"{_size(SHARED)}, for several GPUs", Verdict.REFUSED, fix)
        return
    needed = f"{_size(SHARED)}, for several GPUs" if several else "any, for one GPU"
    fix = f"{container}; outside one: sudo mount -o remount,size=8G {what}"
    yield judge(not several or free >= SHARED, what, found, needed, fix, otherwise=Verdict.WARNING)


def check_limits(subject: Subject) -> Iterator[Finding]:
    """Yield the limits of the shell, the user and the container that are too low; one row where none is."""
    faults = [*_open_files(subject), *_processes(subject), *_address_space(subject), *_others(subject)]
    yield from faults
    if not faults:
        limits = subject.resources.limits
        shown = f"open files {_count(limits.open_files)}, processes {_count(limits.processes)}"
        yield Finding("limits", f"{shown}, none too low", "none too low", Verdict.OK)


def _open_files(subject: Subject) -> Iterator[Finding]:
    limits = subject.resources.limits
    good = GPU_OPEN_FILES if subject.profile.cuda else CPU_OPEN_FILES
    if limits.open_files is None or limits.open_files >= good:
        return
    hard = limits.open_files_hard
    fix = f"ulimit -n {65536 if hard is None else min(hard, 65536)}, before the start"
    if hard is not None and hard < good:
        fix = "raise the hard limit: nofile in /etc/security/limits.conf, or docker run --ulimit nofile=65536"
    yield Finding("open files", f"at most {limits.open_files}", f"{good} or more", Verdict.WARNING, fix)


def _processes(subject: Subject) -> Iterator[Finding]:
    limits, group = subject.resources.limits, subject.resources.group
    least, good = GPU_PROCESSES if subject.profile.cuda else CPU_PROCESSES
    if group.processes is not None:
        free = group.processes - (group.processes_used or 0)
        if free < good:
            found = f"{free} more, of {group.processes} in this container or session"
            fix = "raise pids.max: docker run --pids-limit=-1, or TasksMax= of the systemd unit"
            verdict = Verdict.REFUSED if free < least else Verdict.WARNING
            yield Finding("processes", found, f"{good} more, threads included", verdict, fix)
    if limits.processes is not None and limits.processes < good:
        verdict = Verdict.REFUSED if limits.processes < least else Verdict.WARNING
        fix = f"ulimit -u {good * 4}, before the start; or raise nproc in /etc/security/limits.conf"
        found = f"at most {limits.processes} of this user, threads included"
        yield Finding("user's processes", found, f"{good} or more", verdict, fix)


def _address_space(subject: Subject) -> Iterator[Finding]:
    if (space := subject.resources.limits.address_space_gib) is None:
        return
    gpu = subject.profile.cuda is not None
    needed = "no limit" + (": CUDA reserves many times the memory that it uses" if gpu else "")
    verdict = Verdict.REFUSED if gpu else Verdict.WARNING
    fix = "ulimit -v unlimited, before the start (a batch system may set it: ask for memory there instead)"
    yield Finding("address space", f"at most {space:.1f} GiB", needed, verdict, fix)


def _others(subject: Subject) -> Iterator[Finding]:
    limits = subject.resources.limits
    locked = limits.locked_memory_gib
    if locked is not None and subject.resources.has_rdma and len(_seen(subject)) > 1:
        fix = "ulimit -l unlimited, or docker run --ulimit memlock=-1"
        found = f"at most {_size(locked)}, and there is an RDMA card"
        yield Finding("locked memory", found, "no limit: RDMA pins what it sends", Verdict.WARNING, fix)
    if limits.stack_mib is not None and limits.stack_mib < STACK:
        fix = "ulimit -s 8192, before the start"
        yield Finding("stack", f"{limits.stack_mib:.1f} MiB", f"{STACK:.0f} MiB", Verdict.WARNING, fix)


def _seen(subject: Subject) -> tuple[object, ...]:
    return visible_gpus(subject.reading.gpus, subject.variables)[0]


def _size(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 else f"{gib * 1024:.0f} MiB"


def _count(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)
