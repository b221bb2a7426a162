"""What the proofs measure with: times, errors, precisions, random numbers. Imported by children only: it needs torch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SEED = 20240801
RUNS = 6
"""Of what is timed: the first, which compiles, and some to take the best of."""

FLOAT32_LIMIT = 1e-5
"""Of a relative error. A sum of a thousand float32 products is off by 3e-7; in TF32, which must not be on, by 3e-4."""
HALF_LIMIT = 1e-2
"""The same for bfloat16 (8 bits: rounding the result alone costs 2e-3) and float16, with products summed in float32."""


def relative_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    """Return ||result - reference|| / ||reference||, computed in float64 on the CPU; NaN where either holds one."""
    expected = reference.detach().double().cpu()
    assert result.shape == expected.shape, (result.shape, expected.shape)
    return float((result.detach().double().cpu() - expected).norm() / expected.norm())


def first_and_then(run: Callable[[], object], device: str) -> tuple[float, float]:
    """Return the seconds of the first call of `run`, with what it compiles, and the least of some calls after it."""
    seconds = [_seconds(run, device) for _ in range(RUNS)]
    return seconds[0], min(seconds[1:])


def _seconds(run: Callable[[], object], device: str) -> float:
    synchronize(device)
    begun = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - begun


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was given; a fault of a kernel is raised here."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def half_precision(device: str) -> torch.dtype:
    """Return the precision that training takes on a device: bfloat16, on a GPU without it float16, on such a CPU float32."""
    if device.startswith("cuda"):
        # bfloat16 matrix units came with Ampere
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    from tanren.common.config import ModelConfig
    from tanren.common.models.device import plan_device

    return plan_device(ModelConfig(device="cpu")).torch_dtype


def limit_of(dtype: torch.dtype) -> float:
    """Return the largest relative error that is no fault in a precision."""
    return FLOAT32_LIMIT if dtype == torch.float32 else HALF_LIMIT


def name_of(dtype: torch.dtype) -> str:
    """Return a precision's name: 'bfloat16'."""
    return str(dtype).removeprefix("torch.")


class Random:
    """Normal random numbers, the same on every machine: made on the CPU from one seed."""

    def __init__(self) -> None:
        """Begin the sequence."""
        self.generator = torch.Generator().manual_seed(SEED)

    def normal(self, *shape: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return a tensor of standard normal numbers."""
        return torch.randn(*shape, generator=self.generator).to(device, dtype)
