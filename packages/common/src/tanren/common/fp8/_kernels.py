"""Rounding to 8 bits and turning a matrix, as Triton kernels for CUDA."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tanren.common.fp8._range import FLOAT8, LARGEST, TINY

_COLUMNS = 2048
_TILE = 64


@triton.jit
def _quantise_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr, factors_ptr, values_ptr, scales_ptr, width, stride,
    LARGEST: tl.constexpr, TINY: tl.constexpr, FACTORS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one row, read twice: the second time it lies in the cache."""
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        mask = columns < width
        x = tl.load(x_ptr + row * stride + columns, mask=mask, other=0.0).to(tl.float32)
        if FACTORS:
            x *= tl.load(factors_ptr + columns, mask=mask, other=0.0)
        largest = tl.maximum(largest, tl.abs(x))
    whole = tl.maximum(tl.max(largest), TINY)
    tl.store(scales_ptr + row, tl.div_rn(whole, LARGEST))
    factor = tl.div_rn(LARGEST, whole)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        mask = columns < width
        x = tl.load(x_ptr + row * stride + columns, mask=mask, other=0.0).to(tl.float32)
        if FACTORS:
            x *= tl.load(factors_ptr + columns, mask=mask, other=0.0)
        # No clamp: it would make a number of what is none. The largest product is rounded to LARGEST.
        tl.store(values_ptr + row * width + columns, (x * factor).to(tl.float8e4nv), mask=mask)


@triton.jit
def _turn_kernel(x_ptr, out_ptr, rows, columns, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    row = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
    column = (tl.program_id(1) * TILE + tl.arange(0, TILE)).to(tl.int64)
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    tile = tl.load(x_ptr + row[:, None] * columns + column[None, :], mask=mask, other=0)
    place = out_ptr + column[:, None] * rows + row[None, :]
    tl.store(place, tl.trans(tile), mask=(column < columns)[:, None] & (row < rows)[None, :])


def quantise_rows(x: torch.Tensor, factors: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """See `_arithmetic.quantise_rows`."""
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, width = x.shape
    values = torch.empty(rows, width, dtype=FLOAT8, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    if rows:
        _quantise_rows_kernel[(rows,)](
            x, factors, values, scales, width, x.stride(0),
            LARGEST=LARGEST, TINY=TINY, FACTORS=factors is not None, BLOCK=min(_COLUMNS, triton.next_power_of_2(width)),
        )  # fmt: skip
    return values, scales


def turned(values: torch.Tensor) -> torch.Tensor:
    """See `_arithmetic._turned`."""
    rows, columns = values.shape
    out = torch.empty(columns, rows, dtype=values.dtype, device=values.device)
    grid = (triton.cdiv(rows, _TILE), triton.cdiv(columns, _TILE))
    _turn_kernel[grid](values.view(torch.uint8), out.view(torch.uint8), rows, columns, TILE=_TILE)
    return out
