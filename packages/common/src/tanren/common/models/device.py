"""Device and precision, decided once and with the reason."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tanren.common.config import ModelConfig
from tanren.common.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DevicePlan:
    """Where the model runs and in which precision, and why."""

    device: str
    dtype: str
    threads: int
    reason: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        import torch

        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]


def set_cuda_variables() -> None:
    """Set what CUDA reads when it starts, where the user has not set it.

    cuBLAS repeats its sums in one order only with a fixed workspace (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
    Micro-batches have many sizes, and blocks of fixed segments fit none but their own: without expandable segments the
    allocator held 2.3 times what was used (Qwen3-4B, 16,384 tokens).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def plan_device(config: ModelConfig) -> DevicePlan:
    """Choose device, precision and threads; sets torch's thread count.

    Raises UserError if the recipe asks for a CUDA device that is not there.
    """
    import torch

    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise UserError("model.device is 'cuda', but torch finds no usable CUDA device; use 'auto' or 'cpu'")
    device = "cuda" if cuda and config.device != "cpu" else "cpu"
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.dtype != "auto":
        return DevicePlan(device, config.dtype, torch.get_num_threads(), f"{config.dtype} was asked for")
    if device == "cuda":
        native = torch.cuda.get_device_capability()[0] >= 8  # bfloat16 matrix units came with Ampere
        reason = f"compute capability {'.'.join(map(str, torch.cuda.get_device_capability()))}"
    else:
        native = _cpu_multiplies_bfloat16()
        reason = "the CPU has avx512_bf16 or amx_bf16" if native else "the CPU has no native bfloat16 products"
    return DevicePlan(device, "bfloat16" if native else "float32", torch.get_num_threads(), reason)


def _cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has bfloat16 products in hardware: without them bfloat16 is several times slower than float32."""
    import torch

    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _has_flag()


def _has_flag() -> bool:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return False
    return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16", "bf16"))
