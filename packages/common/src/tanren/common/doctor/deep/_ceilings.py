"""Measures what a device can do at most: memory bandwidth, matrix rate, and the time of a tiny operation."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median

from tanren.common.ceilings import Ceilings, cpu_name
from tanren.common.doctor.deep._probe import ProbeResult
from tanren.common.environments import read_host

SECONDS = 1.0
"""Of each measurement: long enough that a GPU's power limit acts, as it does in training."""
AT_ONCE = 8  # runs that are queued before they are waited for, so that a GPU is never idle between two
LAUNCHES = 2000


def measure_ceilings(device: str) -> Ceilings:
    """Return what was measured on 'cpu' or 'cuda:0', in about 3 s; nothing else should run on it meanwhile."""
    results = (bandwidth(device), matrix_rate(device), launch_time(device))
    return ceilings_of({key: value for result in results for key, value in result.numbers.items()})


def ceilings_of(numbers: dict[str, float | str]) -> Ceilings:
    """Return the ceilings that the three measurements' numbers make together, as of now."""
    return Ceilings(**numbers, measured=datetime.now(UTC).isoformat(timespec="seconds"))  # type: ignore[arg-type]


def bandwidth(device: str, gib: float = 1.0, seconds: float = SECONDS) -> ProbeResult:
    """Copy `gib` GiB, or an eighth of what is free: far more than any cache holds. Counted: bytes read and written."""
    import torch

    size = int(min(gib * 2**30, _free(device) / 8))
    source = torch.arange(size // 4, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / _median_seconds(lambda: target.copy_(source), device, seconds)
    found = f"{rate / 1e9:,.0f} GB/s by a copy of {source.nbytes / 2**30:.2f} GiB"
    return ProbeResult(found, numbers={**_device(device), "bandwidth_bytes_per_s": rate})


def matrix_rate(device: str, size: int = 0, seconds: float = SECONDS) -> ProbeResult:
    """Multiply (size, size) matrices in the precision of training; random ones, for zeros take less power and run faster.

    Size 0: 8192 on a GPU, 2048 on a CPU.
    """
    import torch

    from tanren.common.doctor.deep._measure import half_precision, name_of

    size = size or (8192 if device.startswith("cuda") else 2048)
    dtype = half_precision(device)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    rate = 2 * size**3 / _median_seconds(lambda: torch.mm(left, right, out=product), device, seconds)
    found = f"{rate / 1e12:,.3g} TFLOP/s in {name_of(dtype)}, {size} x {size}"
    return ProbeResult(found, numbers={**_device(device), "matrix_flops_per_s": rate, "dtype": name_of(dtype)})


def launch_time(device: str) -> ProbeResult:
    """Add to one number again and again: the time is that of starting an operation, not of computing."""
    import torch

    from tanren.common.doctor.deep._measure import synchronize

    number = torch.zeros(1, device=device)
    repeats = []
    for _ in range(1 + AT_ONCE):
        synchronize(device)
        begun = time.perf_counter()
        for _ in range(LAUNCHES):
            number.add_(1.0)
        synchronize(device)
        repeats.append((time.perf_counter() - begun) / LAUNCHES)
    seconds = median(repeats[1:])
    found = f"{seconds * 1e6:.2f} us an operation"
    return ProbeResult(found, numbers={**_device(device), "launch_seconds": seconds})


def _median_seconds(run: Callable[[], object], device: str, seconds: float) -> float:
    """Return the median time of a run, of those that some seconds hold, after a first one."""
    from tanren.common.doctor.deep._measure import synchronize

    run()
    synchronize(device)
    times, until = list[float](), time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < AT_ONCE:
        times += _cuda_times(run, device) if device.startswith("cuda") else [_time(run)]
    return median(times)


def _time(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _cuda_times(run: Callable[[], object], device: str) -> list[float]:
    import torch

    marks = [torch.cuda.Event(enable_timing=True) for _ in range(1 + AT_ONCE)]
    with torch.cuda.device(device):
        marks[0].record()
        for mark in marks[1:]:
            run()
            mark.record()
        marks[-1].synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in pairwise(marks)]


def _free(device: str) -> int:
    """Bytes of memory that are free."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def _device(device: str) -> dict[str, float | str]:
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name()
    return {"device": name, "driver": read_host().driver, "torch": torch.__version__}
