"""The doctor on memory, shared memory and limits: read from control groups' files, and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Subject, Verdict
from tanren.common.doctor._finding import Finding, worst
from tanren.common.doctor._limits import check_limits, check_memory, check_shared_memory
from tanren.common.doctor._resources import (
    GIB,
    ControlGroup,
    Limits,
    Resources,
    read_control_group,
    read_resources,
)

from .conftest import by_name
from .recorded_gpus import H100, reading

Make = Callable[[str], Subject]
ROOMY = Resources(
    memory_gib=64.0,
    available_gib=60.0,
    limits=Limits(open_files=20000, open_files_hard=1048576, processes=96365, stack_mib=8.0),
    shared_gib=32.0,
    shared_free_gib=32.0,
)


def write(folder: Path, **files: str | int) -> None:
    """Write a control group's files; a double underscore in a name is a point."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n", encoding="utf-8")


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], Path]:
    """Return a maker of /proc/self/cgroup."""

    def make(text: str) -> Path:
        (tmp_path / "own").write_text(text, encoding="utf-8")
        return tmp_path / "own"

    return make


Own = Callable[[str], Path]


def test_the_least_limit_of_a_group_and_those_above_it_counts(own: Own, tmp_path: Path) -> None:
    job = tmp_path / "mount" / "slurm" / "job"
    write(tmp_path / "mount" / "slurm", memory__max=8 * GIB, memory__current=7 * GIB, pids__max="max")
    write(
        job,
        memory__max="max",
        pids__max=512,
        pids__current=500,
    )
    write(tmp_path / "mount" / "slurm", memory__stat=f"anon {2 * GIB}\ninactive_file {4 * GIB}")
    found = read_control_group(own("0::/slurm/job\n"), tmp_path / "mount")
    assert (found.memory_gib, found.memory_free_gib) == (8.0, 5.0)  # 8 - (7 used - 4 of files that can be dropped)
    assert found.memory_file == str(tmp_path / "mount" / "slurm" / "memory.max")
    assert (found.processes, found.processes_used) == (512, 500)


def test_version_1_keeps_each_controller_apart_and_writes_no_limit_as_a_huge_number(own: Own, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    write(mount / "memory", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=5 * GIB)
    write(
        mount / "memory" / "docker" / "4b0c",
        memory__limit_in_bytes=2 * GIB,
        memory__usage_in_bytes=GIB,
        memory__stat=f"inactive_file 1\ntotal_inactive_file {GIB // 2}",
    )
    write(mount / "pids" / "docker" / "4b0c", pids__max=100, pids__current=40)
    text = "8:pids:/docker/4b0c\n4:cpuset,memory:/docker/4b0c\n1:name=systemd:/\n0::/\n"
    found = read_control_group(own(text), mount)
    assert (found.memory_gib, found.memory_free_gib, found.processes, found.processes_used) == (2.0, 1.5, 100, 40)


def test_in_a_container_the_hosts_path_is_not_there_and_the_top_is_the_containers_own(own: Own, tmp_path: Path) -> None:
    write(tmp_path / "mount", memory__max=4 * GIB, memory__current=GIB)
    found = read_control_group(own("0::/kubepods/pod1/c2\n"), tmp_path / "mount")
    assert (found.memory_gib, found.memory_free_gib) == (4.0, 3.0)


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert read_control_group(tmp_path / "none", tmp_path / "none") == ControlGroup()


def test_this_machines_own_facts_are_read() -> None:
    found = read_resources()
    assert found.capacity_gib is not None
    assert found.free_gib is not None
    assert 0 < found.free_gib <= found.capacity_gib
    assert found.limits.open_files is None or found.limits.open_files > 0


@pytest.mark.parametrize(
    ("environment", "resources", "verdict"),
    [
        ("train", ROOMY, Verdict.OK),
        ("train", replace(ROOMY, available_gib=6.0), Verdict.WARNING),
        ("train", replace(ROOMY, memory_gib=3.0, available_gib=3.0), Verdict.REFUSED),
        ("train", replace(ROOMY, group=ControlGroup(3.0, 3.0, "/sys/fs/cgroup/memory.max")), Verdict.REFUSED),
        ("default", replace(ROOMY, memory_gib=3.0, available_gib=2.9), Verdict.WARNING),
        ("default", replace(ROOMY, memory_gib=1.9, available_gib=1.5), Verdict.REFUSED),
    ],
)
def test_memory_is_judged_by_what_there_is_and_by_what_is_free(
    gpu_subject: Make, cpu_subject: Subject, environment: str, resources: Resources, verdict: Verdict
) -> None:
    subject = cpu_subject if environment == "default" else gpu_subject(environment)
    [finding] = check_memory(replace(subject, resources=resources))
    assert finding.verdict is verdict
    assert ("memory.max" in finding.found) == (resources.group.memory_gib is not None)


def shared(subject: Subject, gpus: int, **facts: object) -> Finding:
    """Return the row on /dev/shm beside so many GPUs."""
    seen = reading("580", *(replace(H100, index=number, uuid=f"GPU-{number}") for number in range(gpus)))
    resources = replace(ROOMY, **facts)  # type: ignore[arg-type]
    [finding] = check_shared_memory(replace(subject, resources=resources, reading=seen))
    return finding


def test_shared_memory_is_judged_for_several_gpus(gpu_subject: Make) -> None:
    subject = gpu_subject("train")
    docker = {"shared_gib": 0.0625, "shared_free_gib": 0.0625}
    assert shared(subject, 2).verdict is Verdict.OK
    assert shared(subject, 1, **docker).verdict is Verdict.OK
    small = shared(subject, 2, **docker)
    assert (small.verdict, small.found) == (Verdict.WARNING, "64 MiB of 64 MiB free")
    assert "--shm-size=8g" in small.fix
    assert shared(subject, 2, shared_gib=0.0625, shared_free_gib=0.001).verdict is Verdict.REFUSED
    assert shared(subject, 1, shared_gib=None, shared_free_gib=None).verdict is Verdict.REFUSED
    assert shared(subject, 1, shared_writable=False).verdict is Verdict.REFUSED


def test_the_cpu_environment_asks_for_no_shared_memory(cpu_subject: Subject) -> None:
    assert list(check_shared_memory(replace(cpu_subject, resources=Resources()))) == []


def test_limits_that_leave_room_are_one_row(gpu_subject: Make) -> None:
    [finding] = check_limits(replace(gpu_subject("train"), resources=ROOMY))
    assert (finding.what, finding.verdict) == ("limits", Verdict.OK)


@pytest.mark.parametrize(
    ("limits", "what", "fix", "verdict"),
    [
        ({"open_files": 1024}, "open files", "ulimit -n 65536", Verdict.WARNING),
        ({"open_files": 1024, "open_files_hard": 2048}, "open files", "raise the hard limit", Verdict.WARNING),
        ({"processes": 1024}, "user's processes", "ulimit -u", Verdict.WARNING),
        ({"processes": 100}, "user's processes", "ulimit -u", Verdict.REFUSED),
        ({"address_space_gib": 64.0}, "address space", "ulimit -v unlimited", Verdict.REFUSED),
        ({"stack_mib": 1.0}, "stack", "ulimit -s", Verdict.WARNING),
    ],
)
def test_each_limit_that_is_too_low_has_a_row_with_its_command(
    gpu_subject: Make, limits: dict[str, float], what: str, fix: str, verdict: Verdict
) -> None:
    resources = replace(ROOMY, limits=replace(ROOMY.limits, **limits))  # type: ignore[arg-type]
    rows = by_name(check_limits(replace(gpu_subject("train"), resources=resources)))
    assert list(rows) == [what]
    assert rows[what].verdict is verdict
    assert rows[what].fix.startswith(fix)


def test_the_usual_limits_of_a_laptop_are_enough_for_the_cpu(cpu_subject: Subject) -> None:
    resources = replace(ROOMY, limits=Limits(open_files=256, processes=1333, stack_mib=8.0))  # macOS
    assert worst(check_limits(replace(cpu_subject, resources=resources))) is Verdict.OK


def test_an_address_space_is_refused_only_beside_cuda(cpu_subject: Subject) -> None:
    resources = replace(ROOMY, limits=replace(ROOMY.limits, address_space_gib=16.0))
    assert worst(check_limits(replace(cpu_subject, resources=resources))) is Verdict.WARNING


@pytest.mark.parametrize(("used", "verdict"), [(100, Verdict.OK), (3000, Verdict.WARNING), (4000, Verdict.REFUSED)])
def test_the_processes_of_a_container_are_judged_by_what_is_left(
    gpu_subject: Make, used: int, verdict: Verdict
) -> None:
    resources = replace(ROOMY, group=ControlGroup(processes=4096, processes_used=used))
    assert worst(check_limits(replace(gpu_subject("train"), resources=resources))) is verdict


@pytest.mark.parametrize(
    ("gpus", "rdma", "locked", "verdict"),
    [
        (2, True, 1 / 128, Verdict.WARNING),
        (2, True, None, Verdict.OK),
        (2, False, 1 / 128, Verdict.OK),
        (1, True, 1 / 128, Verdict.OK),
    ],
)
def test_locked_memory_matters_for_several_gpus_beside_an_rdma_card(
    gpu_subject: Make, gpus: int, rdma: bool, locked: float | None, verdict: Verdict
) -> None:
    seen = reading("580", *(replace(H100, index=number, uuid=f"GPU-{number}") for number in range(gpus)))
    resources = replace(ROOMY, has_rdma=rdma, limits=replace(ROOMY.limits, locked_memory_gib=locked))
    assert worst(check_limits(replace(gpu_subject("train"), resources=resources, reading=seen))) is verdict
