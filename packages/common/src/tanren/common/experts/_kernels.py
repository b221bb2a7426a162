"""Triton kernels over rows that are sorted by expert; what they mean is said in plain torch in `_gate` and `_products`.

A program takes a block of columns of one expert's rows, so that its part of the adapter's matrices is loaded once. Sums run
in float32 and a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

PROGRAMS = 2112
"""At least so many programs are wanted: 16 for each of an H100's processors."""


@triton.jit
def _span(ends_ptr, expert, part, parts, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return first row and the row after the last of one part of an expert's rows."""
    begin = tl.load(ends_ptr + expert - 1, mask=expert > 0, other=0)
    end = tl.load(ends_ptr + expert)
    chunk = tl.cdiv(tl.cdiv(end - begin, parts), ROWS) * ROWS
    first = begin + part * chunk
    return first, tl.minimum(first + chunk, end)


@triton.jit
def _matrix(ptr, expert, columns, column_mask, width, R: tl.constexpr, RP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load columns of an expert's (R, width) matrix, with rows of zeros up to RP."""
    ranks = tl.arange(0, RP)
    place = ptr + (expert.to(tl.int64) * R + ranks[:, None]) * width + columns[None, :]
    return tl.load(place, mask=(ranks < R)[:, None] & column_mask[None, :], other=0.0)


@triton.jit
def _low(ptr, rows, row_mask, R: tl.constexpr, RP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Load rows of low-rank values, (rows, R), with columns of zeros up to RP."""
    ranks = tl.arange(0, RP)
    place = ptr + rows.to(tl.int64)[:, None] * R + ranks[None, :]
    return tl.load(place, mask=row_mask[:, None] & (ranks < R)[None, :], other=0.0)


@triton.jit
def _add_kernel(  # type: ignore[no-untyped-def]
    into_ptr, low_ptr, matrix_ptr, ends_ptr, width, stride, parts,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, R: tl.constexpr, RP: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    column_mask = columns < width
    expert = tl.program_id(1)
    first, last = _span(ends_ptr, expert, tl.program_id(2), parts, ROWS)
    matrix = _matrix(matrix_ptr, expert, columns, column_mask, width, R, RP)
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS)
        row_mask = rows < last
        place = into_ptr + rows.to(tl.int64)[:, None] * stride + columns[None, :]
        mask = row_mask[:, None] & column_mask[None, :]
        value = tl.load(place, mask=mask, other=0.0).to(tl.float32)
        value += tl.dot(_low(low_ptr, rows, row_mask, R, RP), matrix, input_precision="ieee")
        tl.store(place, value, mask=mask)


@triton.jit
def _gate_kernel(  # type: ignore[no-untyped-def]
    gate_up_ptr, low_ptr, b_ptr, bias_ptr, out_ptr, ends_ptr, width, stride, parts, alpha, limit,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, R: tl.constexpr, RP: tl.constexpr,
    INTERLEAVED: tl.constexpr, BIAS: tl.constexpr, CLAMPED: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    column_mask = columns < width
    at_gate = columns * 2 if INTERLEAVED else columns
    at_up = at_gate + 1 if INTERLEAVED else columns + width
    expert = tl.program_id(1)
    first, last = _span(ends_ptr, expert, tl.program_id(2), parts, ROWS)
    if R > 0:
        gate_b = _matrix(b_ptr, expert, at_gate, column_mask, 2 * width, R, RP)
        up_b = _matrix(b_ptr, expert, at_up, column_mask, 2 * width, R, RP)
    if BIAS:
        gate_bias = tl.load(bias_ptr + expert * 2 * width + at_gate, mask=column_mask, other=0.0).to(tl.float32)
        up_bias = tl.load(bias_ptr + expert * 2 * width + at_up, mask=column_mask, other=0.0).to(tl.float32)
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS)
        row_mask = rows < last
        mask = row_mask[:, None] & column_mask[None, :]
        wide = rows.to(tl.int64)[:, None]
        gate = tl.load(gate_up_ptr + wide * stride + at_gate[None, :], mask=mask, other=0.0).to(tl.float32)
        up = tl.load(gate_up_ptr + wide * stride + at_up[None, :], mask=mask, other=0.0).to(tl.float32)
        if R > 0:
            low = _low(low_ptr, rows, row_mask, R, RP)
            gate += tl.dot(low, gate_b, input_precision="ieee")
            up += tl.dot(low, up_b, input_precision="ieee")
        if BIAS:
            gate += gate_bias[None, :]
            up += up_bias[None, :]
        if CLAMPED:
            gate = tl.minimum(gate, limit)
            up = tl.minimum(tl.maximum(up, -limit), limit) + 1.0
        out = gate * tl.sigmoid(gate * alpha) * up
        tl.store(out_ptr + wide * width + columns[None, :], out, mask=mask)


@triton.jit(do_not_specialize=["count"])
def _gate_backward_kernel(  # type: ignore[no-untyped-def]
    d_out_ptr, e_ptr, a_ptr, gate_up_ptr, low_ptr, b_ptr, bias_ptr, share_ptr,
    d_gate_up_ptr, d_share_ptr, d_a_ptr, d_b_ptr, ends_ptr, count, width, stride, parts, alpha, limit,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, R: tl.constexpr, RD: tl.constexpr, RP: tl.constexpr,
    INTERLEAVED: tl.constexpr, BIAS: tl.constexpr, CLAMPED: tl.constexpr,
):  # fmt: skip
    """`d_share` (blocks of columns, rows); `d_a` (parts, experts, RD, width); `d_b` (parts, experts, R, 2 * width)."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    column_mask = columns < width
    at_gate = columns * 2 if INTERLEAVED else columns
    at_up = at_gate + 1 if INTERLEAVED else columns + width
    expert = tl.program_id(1)
    part = tl.program_id(2)
    first, last = _span(ends_ptr, expert, part, parts, ROWS)
    ranks = tl.arange(0, RP)
    dtype = d_out_ptr.dtype.element_ty
    if R > 0:
        gate_b = _matrix(b_ptr, expert, at_gate, column_mask, 2 * width, R, RP)
        up_b = _matrix(b_ptr, expert, at_up, column_mask, 2 * width, R, RP)
        d_gate_b = tl.zeros((RP, COLUMNS), dtype=tl.float32)
        d_up_b = tl.zeros((RP, COLUMNS), dtype=tl.float32)
    if RD > 0:
        a = _matrix(a_ptr, expert, columns, column_mask, width, RD, RP)
        d_a = tl.zeros((RP, COLUMNS), dtype=tl.float32)
    if BIAS:
        gate_bias = tl.load(bias_ptr + expert * 2 * width + at_gate, mask=column_mask, other=0.0).to(tl.float32)
        up_bias = tl.load(bias_ptr + expert * 2 * width + at_up, mask=column_mask, other=0.0).to(tl.float32)
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS)
        row_mask = rows < last
        mask = row_mask[:, None] & column_mask[None, :]
        wide = rows.to(tl.int64)[:, None]
        gate = tl.load(gate_up_ptr + wide * stride + at_gate[None, :], mask=mask, other=0.0).to(tl.float32)
        up = tl.load(gate_up_ptr + wide * stride + at_up[None, :], mask=mask, other=0.0).to(tl.float32)
        d_out = tl.load(d_out_ptr + wide * width + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        share = tl.load(share_ptr + rows, mask=row_mask, other=0.0).to(tl.float32)
        if R > 0:
            low = _low(low_ptr, rows, row_mask, R, RP)
            gate += tl.dot(low, gate_b, input_precision="ieee")
            up += tl.dot(low, up_b, input_precision="ieee")
        if BIAS:
            gate += gate_bias[None, :]
            up += up_bias[None, :]
        if CLAMPED:
            gate_free = gate <= limit
            up_free = (up >= -limit) & (up <= limit)
            gate = tl.minimum(gate, limit)
            up = tl.minimum(tl.maximum(up, -limit), limit) + 1.0
        sigmoid = tl.sigmoid(gate * alpha)
        swish = gate * sigmoid
        out = swish * up
        if RD > 0:
            e = _low(e_ptr, rows, row_mask, RD, RP)
            d_out += tl.dot(e, a, input_precision="ieee")
            shared = (e.to(tl.float32) * share[:, None]).to(dtype)
            d_a += tl.dot(tl.trans(shared), out.to(dtype), input_precision="ieee")
        place = d_share_ptr + tl.program_id(0).to(tl.int64) * count + rows
        tl.store(place, tl.sum(tl.where(mask, d_out * out, 0.0), axis=1), mask=row_mask)
        d_out *= share[:, None]
        d_up = d_out * swish
        d_gate = d_out * up * (sigmoid + alpha * swish * (1.0 - sigmoid))
        if CLAMPED:
            d_up = tl.where(up_free, d_up, 0.0)
            d_gate = tl.where(gate_free, d_gate, 0.0)
        d_up = d_up.to(dtype)
        d_gate = d_gate.to(dtype)
        tl.store(d_gate_up_ptr + wide * 2 * width + at_gate[None, :], d_gate, mask=mask)
        tl.store(d_gate_up_ptr + wide * 2 * width + at_up[None, :], d_up, mask=mask)
        if R > 0:
            d_gate_b += tl.dot(tl.trans(low), d_gate, input_precision="ieee")
            d_up_b += tl.dot(tl.trans(low), d_up, input_precision="ieee")
    experts = tl.num_programs(1)
    place = part.to(tl.int64) * experts + expert
    if RD > 0:
        d_a_place = d_a_ptr + (place * RD + ranks[:, None]) * width + columns[None, :]
        tl.store(d_a_place, d_a, mask=(ranks < RD)[:, None] & column_mask[None, :])
    if R > 0:
        b_mask = (ranks < R)[:, None] & column_mask[None, :]
        b_place = d_b_ptr + (place * R + ranks[:, None]) * 2 * width
        tl.store(b_place + at_gate[None, :], d_gate_b, mask=b_mask)
        tl.store(b_place + at_up[None, :], d_up_b, mask=b_mask)


def add_by_expert(into: torch.Tensor, rows: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """See `_products.add_by_expert`; few columns in `rows`."""
    experts, rank, width = matrices.shape
    columns = 128
    blocks, parts = _grid(width, columns, experts)
    _add_kernel[(blocks, experts, parts)](
        into, rows, matrices, ends, width, into.stride(0), parts,
        ROWS=64, COLUMNS=columns, R=rank, RP=_padded(rank), num_warps=4, num_stages=2,
    )  # fmt: skip
    return into


def gate(
    gate_up: torch.Tensor,
    low: torch.Tensor | None,
    b: torch.Tensor | None,
    bias: torch.Tensor | None,
    ends: torch.Tensor,
    kind: Any,
) -> torch.Tensor:
    """See `_gate.forward`."""
    count, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(count, width)
    rank = 0 if low is None else low.shape[1]
    columns = 128
    blocks, parts = _grid(width, columns, len(ends))
    _gate_kernel[(blocks, len(ends), parts)](
        gate_up, low, b, bias, out, ends, width, gate_up.stride(0), parts, kind.alpha, kind.limit or 0.0,
        ROWS=32, COLUMNS=columns, R=rank, RP=_padded(rank),
        INTERLEAVED=kind.interleaved, BIAS=bias is not None, CLAMPED=kind.limit is not None, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


def gate_backward(
    d_out: torch.Tensor,
    e: torch.Tensor | None,
    a: torch.Tensor | None,
    gate_up: torch.Tensor,
    low: torch.Tensor | None,
    b: torch.Tensor | None,
    bias: torch.Tensor | None,
    share: torch.Tensor,
    ends: torch.Tensor,
    kind: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """See `_gate.backward`."""
    count, width = d_out.shape
    experts = len(ends)
    rank, rank_down = (0 if one is None else one.shape[1] for one in (low, e))
    padded = _padded(rank, rank_down)
    columns = 64
    blocks, parts = _grid(width, columns, experts)

    def sums(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=d_out.device)

    d_gate_up = d_out.new_empty(count, 2 * width)
    d_share, d_a, d_b = (
        sums(blocks, count),
        sums(parts, experts, rank_down, width),
        sums(parts, experts, rank, 2 * width),
    )
    _gate_backward_kernel[(blocks, experts, parts)](
        d_out, e, a, gate_up, low, b, bias, share,
        d_gate_up, d_share, d_a, d_b, ends, count, width, gate_up.stride(0), parts, kind.alpha, kind.limit or 0.0,
        ROWS=64 if padded <= 32 else 32, COLUMNS=columns, R=rank, RD=rank_down, RP=padded,
        INTERLEAVED=kind.interleaved, BIAS=bias is not None, CLAMPED=kind.limit is not None, num_warps=4, num_stages=2,
    )  # fmt: skip
    return d_gate_up, d_share.sum(0), d_a.sum(0) if rank_down else None, d_b.sum(0) if rank else None


def _grid(width: int, columns: int, experts: int) -> tuple[int, int]:
    """Return how many blocks of columns there are, and in how many parts an expert's rows are worked on."""
    blocks = triton.cdiv(width, columns)
    return blocks, triton.cdiv(PROGRAMS, blocks * experts)


def _padded(*ranks: int) -> int:
    """The matrix units take no fewer than 16."""
    return max(16, int(triton.next_power_of_2(max(*ranks, 1))))
