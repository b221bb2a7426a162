"""Readings of GPUs as NVML gives them, in the shape that the doctor reads: names, memory and drivers of real machines."""

from __future__ import annotations

from dataclasses import replace

from tanren.common.doctor._nvml import Gpu, MigSlice, Process, Reading
from tanren.common.environments import Host

CUDA_OF = {"535": "12.2", "570": "12.8", "575": "12.9", "580": "13.0"}
"""The CUDA version that a branch of the driver reports."""
DRIVERS = {"535": "535.183.01", "570": "570.124.06", "575": "575.57.08", "580": "580.95.05"}


def gpu(name: str, compute_capability: str, gib: float, index: int = 0, used: float = 0.0) -> Gpu:
    """Return a GPU without faults; `used` by a program that NVML names."""
    return Gpu(
        index,
        uuid=f"GPU-{index}a6f5b3c-2f6e-5b1c-9d1e-0c8d7f1e2a4b",
        name=name,
        compute_capability=compute_capability,
        memory_gib=gib,
        used_gib=used,
        free_gib=gib - used,
        processes=(Process(4711, "python3", used),) if used else (),
        ecc_errors=0,
        repair_pending=False,
        repair_failed=False,
    )


T4 = replace(gpu("Tesla T4", "7.5", 15.0), repair_failed=None)  # no row remapping before Ampere
A100 = replace(gpu("NVIDIA A100-SXM4-80GB", "8.0", 80.0), nvlinks=12)
RTX_5080 = replace(
    gpu("NVIDIA GeForce RTX 5080", "12.0", 15.92, used=0.6),  # the desktop's own
    ecc_errors=None,
    repair_pending=None,
    repair_failed=None,
)
H100 = replace(gpu("NVIDIA H100 80GB HBM3", "9.0", 79.65), nvlinks=18)
H200 = replace(gpu("NVIDIA H200", "9.0", 140.4), nvlinks=18)
GH200 = gpu("NVIDIA GH200 480GB", "9.0", 95.58)
B200 = replace(gpu("NVIDIA B200", "10.0", 179.06), nvlinks=18)
B300 = replace(gpu("NVIDIA B300 SXM6 AC", "10.3", 268.6), nvlinks=18)
GB10 = replace(gpu("NVIDIA GB10", "12.1", 0.0), memory_gib=None, used_gib=None, free_gib=None)
SLICES = tuple(
    MigSlice(f"MIG-{number}5f0c7d2-1111-5222-8333-44445555666{number}", "1g.23gb", 22.25, free)
    for number, free in enumerate((2.0, 22.2, 22.1))
)
B200_MIG = replace(B200, mig=True, slices=SLICES)


def reading(branch: str, *gpus: Gpu) -> Reading:
    """Return the reading of a machine with a driver of this branch."""
    return Reading(DRIVERS[branch], CUDA_OF[branch], gpus)


def host(of: Reading, machine: str = "x86_64") -> Host:
    """Return the machine of a reading."""
    return Host(machine, "2.35", of.driver, tuple(one.name for one in of.gpus))
