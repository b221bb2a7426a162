"""Proofs of torch itself: that it has the device, and multiplies matrices right."""

from __future__ import annotations

import time

from tanren.common.doctor.deep._probe import Comparison, ProbeResult


def devices(device: str) -> ProbeResult:
    """Start torch on a kind of device ('cpu', 'cuda') and name its devices. Raises what torch says where it has none."""
    begun = time.perf_counter()
    import torch

    if device == "cpu":
        found = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
        return ProbeResult(found, time.perf_counter() - begun, names=("cpu",))
    torch.cuda.init()
    names = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    shown = [
        f"{name} {torch.cuda.get_device_name(name)} ({'.'.join(map(str, torch.cuda.get_device_capability(name)))})"
        for name in names
    ]
    found = f"torch {torch.__version__}, CUDA {torch.version.cuda}: {', '.join(shown)}"
    return ProbeResult(found, time.perf_counter() - begun, names=names)


def matmul(device: str, size: int) -> ProbeResult:
    """Multiply two (size, size) matrices in the precision of training and in float32 without TF32."""
    import torch

    from tanren.common.doctor.deep._measure import (
        Random,
        first_and_then,
        half_precision,
        limit_of,
        name_of,
        relative_error,
    )

    torch.set_float32_matmul_precision("highest")
    random = Random()
    comparisons, times = [], []
    for dtype in dict.fromkeys((half_precision(device), torch.float32)):
        left, right = (random.normal(size, size, device=device, dtype=dtype) for _ in range(2))
        product = torch.full_like(left, torch.nan)  # what is not written shows
        times.append(first_and_then(lambda a=left, b=right, out=product: torch.mm(a, b, out=out), device))  # type: ignore[misc]
        reference = left.double().cpu() @ right.double().cpu()
        comparisons.append(Comparison(name_of(dtype), relative_error(product, reference), limit_of(dtype)))
    return ProbeResult(f"{size} x {size}", *times[0], comparisons=tuple(comparisons))
