"""The device that is planned for: this machine's GPU, one that is named, or this machine's CPU."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace
from typing import Literal

import psutil

from tanren.common.attention import GpuFacts
from tanren.common.ceilings import Ceilings, cpu_name, read_ceilings
from tanren.common.doctor._nvml import read_nvml
from tanren.common.doctor._visible import visible_gpus
from tanren.common.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One line of the table: what a maker's data sheet says of a chip."""

    name: str
    compute_capability: tuple[int, int]
    gib: float
    """As NVML reports it, which is less than on the box."""
    gigabytes_per_s: float
    matrix_tflops: float
    """bfloat16 with float32 sums, without sparsity; float16 for Turing."""
    float32_tflops: float


# https://www.nvidia.com/en-us/data-center/{h100,h200,grace-hopper-superchip,dgx-b200,dgx-b300,a100,l40s,l4,a10-gpu}/ and
# NVIDIA's architecture papers (Turing, Ampere GA102, Ada, Hopper, Blackwell RTX), appendix "comparison of GPUs".
CHIPS = (
    Chip("B300", (10, 3), 268.6, 8000, 2250, 75),
    Chip("B200", (10, 0), 179.1, 8000, 2250, 75),
    Chip("GH200", (9, 0), 95.6, 4000, 989, 67),
    Chip("H200", (9, 0), 140.4, 4800, 989, 67),
    Chip("H100 NVL", (9, 0), 93.6, 3900, 835, 60),
    Chip("H100 PCIe", (9, 0), 79.6, 2000, 756, 51),
    Chip("H100", (9, 0), 79.6, 3350, 989, 67),
    Chip("A100 40GB", (8, 0), 40.0, 1555, 312, 19.5),
    Chip("A100", (8, 0), 80.0, 2039, 312, 19.5),
    Chip("L40S", (8, 9), 45.0, 864, 362, 91.6),
    Chip("L4", (8, 9), 22.5, 300, 121, 30.3),
    Chip("A10", (8, 6), 22.5, 600, 125, 31.2),
    Chip("RTX PRO 6000", (12, 0), 95.6, 1792, 252, 126),
    Chip("RTX A6000", (8, 6), 48.0, 768, 155, 38.7),
    Chip("RTX 5090", (12, 0), 31.8, 1792, 209, 104.8),
    Chip("RTX 5080", (12, 0), 15.9, 960, 113, 56.3),
    Chip("RTX 5070 Ti", (12, 0), 15.9, 896, 88, 43.9),
    Chip("RTX 4090", (8, 9), 24.0, 1008, 165, 82.6),
    Chip("RTX 4080", (8, 9), 16.0, 717, 97, 48.7),
    Chip("RTX 3090", (8, 6), 24.0, 936, 71, 35.6),
    Chip("T4", (7, 5), 15.0, 320, 65, 8.1),
)

# Of a data sheet's numbers, what a large product and a large copy reach on an H100 (719 of 989 TFLOP/s, 3,006 of 3,350 GB/s;
# `tanren doctor --deep`); a measurement on the device replaces it.
REACHED_MATRIX, REACHED_BANDWIDTH = 0.73, 0.9
LAUNCH_SECONDS = 5e-6
STANDS_IN = "L4"
# Measured on an H100 (benchmarks/memory): driver, torch, cuBLAS and the modules of FlashAttention-4 take 0.67 GiB.
CUDA_CONTEXT = int(0.67 * GIB)
FRAGMENTATION = 0.75
"""With expandable segments, which training sets, torch's allocator keeps a hole that the largest tensor does not fit into: 0.5 to
0.9 of that tensor in 18 cases (benchmarks/memory/h100.json)."""
HOST_SECONDS = 50e-6
"""Of an operation in PyTorch with autograd and the modules around it, before the device sees it. Measured on the host of an H100
(benchmarks/memory/h100.json): 41 to 57 us in eight dense cases that the host limits, of 4,800 to 9,900 operations."""
REACHED_EAGER = 0.72
"""What the operations of a model reach of the ceilings, which large products and copies set: 0.68 to 0.74 in the cases of
Qwen3-4B that the device limits (benchmarks/memory/h100.json); mixtures of experts reach less, 0.6."""


@dataclass(frozen=True)
class Target:
    """The device, its memory, and its limits."""

    name: str
    device: Literal["cuda", "cpu"]
    total: int
    """Bytes."""
    free: int
    """Bytes that nobody uses now; of a device that is not here: all."""
    ceilings: Ceilings
    float32_flops_per_s: float
    gpu: GpuFacts | None
    """None for the CPU."""
    here: bool
    context: int = 0
    """Bytes on the device outside torch's allocator: driver, loaded kernels, library handles."""
    slack: float = 0.0
    """What torch's allocator holds and cannot use, as a share of the largest tensor."""
    passing_factor: float = 1.0
    """Measured by predicted memory of activations, logits and gradients on their way; a probe finds it."""
    time_factor: float = 1.0
    """Measured by predicted time; a probe finds it."""

    @property
    def bfloat16(self) -> bool:
        """Whether it multiplies bfloat16 in hardware; of a CPU its device plan says so."""
        return self.gpu is not None and self.gpu.compute_capability >= (8, 0)


def find_target(gpu: str | None, memory_gib: float | None, device: str) -> Target:
    """Return the device to plan for: `gpu` by name, else this machine's first visible GPU, else its CPU.

    `memory_gib` replaces its memory. `device` is the recipe's: 'cpu' plans for the CPU. Raises UserError for an unknown name.
    """
    if gpu is not None:
        target = _from_chip(_chip(gpu))
    else:
        target = (None if device == "cpu" else _present_gpu()) or _cpu()
        if device == "cuda" and target.device == "cpu" and memory_gib is None:
            raise UserError(
                "model.device is 'cuda', and there is no GPU here: name the one to plan for with --gpu (H100, 'RTX 5080', ...)"
            )
    if memory_gib is not None:
        target = replace(target, total=int(memory_gib * GIB), free=int(memory_gib * GIB))
    return target


def chips_with(size: int) -> list[Target]:
    """Return the known devices with at least that many bytes, the smallest first, one of each size."""
    found = sorted((_from_chip(chip) for chip in CHIPS if chip.gib * GIB >= size), key=lambda target: target.total)
    return [target for index, target in enumerate(found) if index == 0 or target.total > found[index - 1].total]


def _chip(name: str) -> Chip:
    found = _known(name)
    if found is None:
        names = [chip.name for chip in CHIPS]
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"--gpu {name!r} is in no table: {hint}known are {', '.join(names)}; for another one name the most similar and "
            "give its memory with --memory GIB"
        )
    return found


def _known(name: str) -> Chip | None:
    """The chip whose every word is in the name; the table has the more particular ones first."""
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    return next((chip for chip in CHIPS if set(chip.name.lower().split()) <= words), None)


def _from_chip(chip: Chip) -> Target:
    measured = read_ceilings(chip.name)
    ceilings = measured or Ceilings(
        chip.name,
        chip.gigabytes_per_s * 1e9 * REACHED_BANDWIDTH,
        chip.matrix_tflops * 1e12 * REACHED_MATRIX,
        LAUNCH_SECONDS,
        f"data sheet x {REACHED_MATRIX} (products) and x {REACHED_BANDWIDTH} (memory), not measured",
    )
    size = int(chip.gib * GIB)
    rate = chip.float32_tflops * 1e12 * REACHED_MATRIX
    facts = GpuFacts(chip.name, chip.compute_capability)
    return Target(
        chip.name,
        "cuda",
        size,
        size,
        ceilings,
        rate,
        facts,
        here=False,
        context=CUDA_CONTEXT,
        slack=FRAGMENTATION,
    )


def _present_gpu() -> Target | None:
    seen, _ = visible_gpus(read_nvml().gpus, os.environ)
    for one in seen:
        total, free = one.memory_gib, one.free_gib
        if total is None or free is None:  # GB10, Thor: the GPU shares the CPU's memory, and NVML gives no number
            memory = psutil.virtual_memory()
            total, free = memory.total / GIB, memory.available / GIB
        major, _, minor = one.gpu.compute_capability.partition(".")
        capability = (int(major), int(minor)) if major and minor else None
        return present_gpu(one.gpu.name, capability, int(total * GIB), int(free * GIB))
    return None


def present_gpu(name: str, capability: tuple[int, int] | None, total: int, free: int) -> Target:
    """Return a GPU of this machine, its memory in bytes. An unknown chip's times are those of a slow one in the table."""
    known = _known(name)
    target = _from_chip(known or _chip(STANDS_IN))
    ceilings = read_ceilings(name) or target.ceilings
    if known is None and ceilings is target.ceilings:
        said = f"{name} is in no table: those of an {STANDS_IN}; measure with tanren doctor --deep"
        ceilings = replace(ceilings, measured=said)
    facts = GpuFacts(name, capability) if capability else target.gpu
    return replace(target, name=name, total=total, free=free, ceilings=ceilings, gpu=facts, here=True)


def _cpu() -> Target:
    memory = psutil.virtual_memory()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A core with 256-bit units does about 50 GFLOP/s in float32; a few cores saturate about 20 GB/s of memory.
    rough = Ceilings(
        "CPU", 20e9, threads * 50e9, LAUNCH_SECONDS, "a rough guess for a CPU; measure: tanren doctor --deep"
    )
    ceilings = read_ceilings(cpu_name()) or rough
    rate = ceilings.matrix_flops_per_s
    return Target(cpu_name(), "cpu", memory.total, memory.available, ceilings, rate, None, here=True)
