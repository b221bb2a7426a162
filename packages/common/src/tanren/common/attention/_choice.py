"""The facts that decide about the attention kernel, and the form of the decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import get_args

from tanren.common.config import AttentionKernel

ATTENTION_VARIABLE = "ATTN_IMPL"
"""The environment variable that names a kernel."""
DISTRIBUTIONS: dict[AttentionKernel, str] = {
    "flash_attention_4": "flash-attn-4",
    "flash_attention_2": "flash-attn",
    "varlen": "torch",
    "sdpa": "torch",
    "eager": "torch",
}
"""Every kernel and the distribution that brings it. The names are transformers' own; `varlen` is
torch.nn.attention.varlen. `sdpa` and `eager` here take one packed sample after the other."""
KERNELS: tuple[AttentionKernel, ...] = get_args(AttentionKernel)
assert tuple(DISTRIBUTIONS) == KERNELS


@dataclass(frozen=True)
class GpuFacts:
    """The GPU that attention runs on."""

    name: str
    compute_capability: tuple[int, int]


@dataclass(frozen=True)
class Choice:
    """The kernel, why it was taken, and why not the ones before it."""

    kernel: str
    reason: str
    rejected: tuple[tuple[str, str], ...] = ()
    """(kernel, why not), in the order in which they would have been taken."""
    packs: bool = True
    """Whether samples may share a forward pass."""
    proof: str = ""
    """What was computed to prove it; '' before, and where the model keeps its own attention."""

    def lines(self) -> list[str]:
        """Say the choice: one line, and one for each kernel that was passed over."""
        passed_over = [f"attention: not {kernel}: {why}" for kernel, why in self.rejected]
        proven = f"; proven: {self.proof}" if self.proof else ""
        return [f"attention: {self.kernel}: {self.reason}{proven}", *passed_over]


def installed_kernels() -> Mapping[str, str]:
    """Return the kernels that this environment has, each with the version of the distribution that brings it."""
    found: dict[str, str] = {}
    for kernel, distribution in DISTRIBUTIONS.items():
        try:
            found[kernel] = version(distribution)
        except PackageNotFoundError:
            continue
    return found


def gpu_facts(device: str) -> GpuFacts | None:
    """Return the facts of a torch device; None for the CPU."""
    if device == "cpu":
        return None
    import torch

    properties = torch.cuda.get_device_properties(torch.device(device))
    return GpuFacts(properties.name, (properties.major, properties.minor))
