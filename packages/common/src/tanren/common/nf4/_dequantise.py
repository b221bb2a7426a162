"""The values that a 4-bit layer of bitsandbytes multiplies with, written where they are wanted.

bitsandbytes writes them in three steps (scales, their offset, values), each with a launch of its own. Before every product of
a layer that is what a host spends its time on, so on CUDA here it is one kernel, with the same results bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from types import ModuleType

BLOCK, BLOCKS = 64, 256
"""Weights of one scale; scales, in 8 bits themselves, of one float32 scale (Dettmers et al. 2023, arXiv:2305.14314)."""


def dequantise(weight: Any, out: torch.Tensor) -> None:
    """Write a weight (bitsandbytes' Params4bit) to `out`, (out, width), whose rows follow one another in memory."""
    if out.is_cuda and takes(weight):
        _triton().dequantise(weight, out)
        return
    from bitsandbytes.functional import dequantize_4bit

    out.copy_(dequantize_4bit(weight.detach(), weight.quant_state))


def takes(weight: Any) -> bool:
    """Whether a weight is in the one form that the kernel reads: what loading makes of a checkpoint."""
    state = weight.quant_state
    return bool(
        state.nested
        and state.blocksize == BLOCK
        and state.state2.blocksize == BLOCKS
        and weight.dtype == torch.uint8
        and weight.numel() * 2 == state.shape.numel()
        and weight.numel() * 2 % BLOCK == 0
    )


def _triton() -> ModuleType:
    from tanren.common.nf4 import _kernels

    return _kernels
