"""What NVIDIA's management library says about the GPUs of this machine, without CUDA and without torch.

Any single question may be one that a card, a driver or a container does not answer: its answer is then None, and the
rest is read all the same. https://docs.nvidia.com/deploy/nvml-api/
"""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass
from typing import Any

GIB = 2**30


@dataclass(frozen=True)
class Process:
    """A process of another program on a GPU."""

    pid: int
    name: str
    """Of its program; '' where this user, or this container, cannot see it."""
    gib: float | None


@dataclass(frozen=True)
class MigSlice:
    """A MIG device: the part of a GPU that CUDA sees as one GPU."""

    uuid: str
    profile: str
    """Compute and memory slices: '1g.23gb'."""
    memory_gib: float | None
    free_gib: float | None


@dataclass(frozen=True)
class Gpu:
    """One GPU; None and '' where it does not say."""

    index: int
    """NVML's: by PCI bus."""
    uuid: str = ""
    name: str = ""
    compute_capability: str = ""
    """'10.3'."""
    memory_gib: float | None = None
    used_gib: float | None = None
    """By programs, without what the driver keeps for itself."""
    free_gib: float | None = None
    processes: tuple[Process, ...] = ()
    mig: bool = False
    """Whether MIG is on: then only its slices can be used."""
    slices: tuple[MigSlice, ...] = ()
    ecc_errors: int | None = None
    """Uncorrected memory errors since the driver was loaded."""
    repair_pending: bool | None = None
    """Whether memory pages or rows are replaced at the next reset."""
    repair_failed: bool | None = None
    """Whether a row could not be replaced: there is no spare one left."""
    nvlinks: int | None = None
    """Active links."""
    pci: str = ""
    """Domain, bus and device as the kernel writes them: '0000:3b:00'."""
    fault: str = ""
    """Why it cannot be asked at all."""


@dataclass(frozen=True)
class Reading:
    """What NVML says of the machine; with a fault nothing else is known."""

    driver: str = ""
    cuda: str = ""
    """The newest CUDA that the driver's libcuda speaks: '12.8'."""
    gpus: tuple[Gpu, ...] = ()
    fault: str = ""
    fix: str = ""


NOT_READ = Reading(fault="not asked", fix="ask without --no-gpu")
"""For an environment that uses no GPU, and for --no-gpu."""

_FIXES = {
    "NVMLError_LibraryNotFound": "install NVIDIA's driver; in a container: start it with the GPUs and "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    "NVMLError_DriverNotLoaded": "load NVIDIA's kernel driver (modprobe nvidia), or restart the machine",
    "NVMLError_NoPermission": "let this user read and write /dev/nvidia* (in a container: pass the devices)",
    "NVMLError_LibRmVersionMismatch": "restart the machine: the driver was updated, and the old one is still loaded",
}


def read_nvml() -> Reading:
    """Return the reading of this machine; it raises nothing where NVML cannot be had, and the reading says why."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return Reading(fault="the Python package nvidia-ml-py is not installed", fix="install it: run the task sync")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as fault:
        fix = _FIXES.get(type(fault).__name__, "let `nvidia-smi` run first: it asks the same library")
        return Reading(fault=f"NVML: {fault}", fix=fix)
    try:
        version = _ask(nvml, "nvmlSystemGetCudaDriverVersion_v2")
        return Reading(
            driver=_ask(nvml, "nvmlSystemGetDriverVersion") or "",
            cuda=f"{version // 1000}.{version % 1000 // 10}" if version else "",
            gpus=tuple(_gpu(nvml, index) for index in range(_ask(nvml, "nvmlDeviceGetCount") or 0)),
        )
    finally:
        _ask(nvml, "nvmlShutdown")


def _ask(nvml: Any, query: str, *arguments: object) -> Any:
    """Return the answer; None where NVML has none, or has a name that is no text."""
    try:
        return getattr(nvml, query)(*arguments)
    except (nvml.NVMLError, UnicodeDecodeError):
        return None


def _gpu(nvml: Any, index: int) -> Gpu:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as fault:  # fallen off the bus, or not this container's
        return Gpu(index, fault=str(fault))
    capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    memory, used, free = _memory(nvml, handle)
    mode = _ask(nvml, "nvmlDeviceGetMigMode", handle)
    mig = bool(mode and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    rows = _ask(nvml, "nvmlDeviceGetRemappedRows", handle)  # since Ampere: (corrected, uncorrected, pending, failed)
    pages = _ask(nvml, "nvmlDeviceGetRetiredPagesPendingStatus", handle)  # before
    errors = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
    return Gpu(
        index,
        uuid=_ask(nvml, "nvmlDeviceGetUUID", handle) or "",
        name=_ask(nvml, "nvmlDeviceGetName", handle) or "",
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else "",
        memory_gib=memory,
        used_gib=used,
        free_gib=free,
        processes=_processes(nvml, handle),
        mig=mig,
        slices=_slices(nvml, handle) if mig else (),
        ecc_errors=_ask(nvml, "nvmlDeviceGetTotalEccErrors", handle, *errors),
        repair_pending=bool(rows[2]) if rows else None if pages is None else pages == nvml.NVML_FEATURE_ENABLED,
        repair_failed=bool(rows[3]) if rows else None,
        nvlinks=_nvlinks(nvml, handle),
        pci=_pci(nvml, handle),
    )


def pci_name(address: str) -> str:
    """Return domain, bus and device as the kernel's log writes them: '00000000:3B:00.0' -> '0000:3b:00'."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:].zfill(4)}:{rest.partition('.')[0]}"


def _pci(nvml: Any, handle: Any) -> str:
    answer = _ask(nvml, "nvmlDeviceGetPciInfo", handle)
    address = answer.busId if answer else ""
    return pci_name(address.decode("ascii") if isinstance(address, bytes) else address) if address else ""


def _memory(nvml: Any, handle: Any) -> tuple[float | None, float | None, float | None]:
    """Total, used and free GiB. The second form of the question counts what the driver keeps apart from what is used."""
    answer = _ask(nvml, "nvmlDeviceGetMemoryInfo", handle, nvml.nvmlMemory_v2)
    answer = answer or _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    return (answer.total / GIB, answer.used / GIB, answer.free / GIB) if answer else (None, None, None)


def _processes(nvml: Any, handle: Any) -> tuple[Process, ...]:
    found: dict[int, Process] = {}
    for query in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        for process in _ask(nvml, query, handle) or ():
            if process.pid not in (os.getpid(), *found):
                name = _ask(nvml, "nvmlSystemGetProcessName", process.pid) or ""
                gib = None if process.usedGpuMemory is None else process.usedGpuMemory / GIB
                found[process.pid] = Process(process.pid, name.split(" ")[0].rpartition("/")[2], gib)
    return tuple(found.values())


def _slices(nvml: Any, handle: Any) -> tuple[MigSlice, ...]:
    found: list[MigSlice] = []
    for index in range(_ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        if (part := _ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, index)) is None:
            continue  # a place that holds no slice
        memory, _, free = _memory(nvml, part)
        name = re.search(r"MIG (\S+)$", _ask(nvml, "nvmlDeviceGetName", part) or "")
        uuid = _ask(nvml, "nvmlDeviceGetUUID", part) or ""
        found.append(MigSlice(uuid, name[1] if name else "", memory, free))
    return tuple(found)


def _nvlinks(nvml: Any, handle: Any) -> int | None:
    """The number of active links; None for a card without any."""
    states = [_ask(nvml, "nvmlDeviceGetNvLinkState", handle, link) for link in range(nvml.NVML_NVLINK_MAX_LINKS)]
    known = [state for state in states if state is not None]
    return sum(state == nvml.NVML_FEATURE_ENABLED for state in known) if known else None
