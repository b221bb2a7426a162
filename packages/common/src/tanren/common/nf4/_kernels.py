"""Writing 4-bit weights out, as a Triton kernel for CUDA."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

_BLOCKS = 32
"""Blocks of 64 weights in one program."""


@triton.jit
def _dequantise_kernel(  # type: ignore[no-untyped-def]
    packed_ptr, codes_ptr, scales_ptr, scale_codes_ptr, scale_scales_ptr, offset_ptr, out_ptr, blocks,
    SCALES: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Two weights in a byte, the first in its upper half; scale = code * scale of its own + offset."""
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    mask = block < blocks
    scale = tl.load(
        scale_codes_ptr + tl.load(scales_ptr + block, mask=mask, other=0).to(tl.int32), mask=mask, other=0.0
    )
    scale = scale * tl.load(scale_scales_ptr + block // SCALES, mask=mask, other=0.0) + tl.load(offset_ptr)
    byte = tl.load(packed_ptr + block[:, None] * 32 + tl.arange(0, 32)[None, :], mask=mask[:, None], other=0).to(
        tl.int32
    )
    first = tl.load(codes_ptr + (byte >> 4)) * scale[:, None]
    second = tl.load(codes_ptr + (byte & 15)) * scale[:, None]
    both = tl.reshape(tl.join(first, second), (BLOCKS, 64))
    tl.store(out_ptr + block[:, None] * 64 + tl.arange(0, 64)[None, :], both, mask=mask[:, None])


def dequantise(weight: Any, out: torch.Tensor) -> None:
    """See `_dequantise.dequantise`."""
    assert out.is_contiguous(), "rows follow one another"
    state = weight.quant_state
    blocks = out.numel() // state.blocksize
    _dequantise_kernel[(triton.cdiv(blocks, _BLOCKS),)](
        weight.detach(), state.code, state.absmax, state.state2.code, state.state2.absmax, state.offset, out, blocks,
        SCALES=state.state2.blocksize, BLOCKS=_BLOCKS, enable_fp_fusion=False,
    )  # fmt: skip
