"""The kernel that is compiled: in a module of its own, since Triton reads a kernel's source from its file at import."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

BLOCK = 64  # rows and columns of a tile: every chip's matrix units take it


def product_and_row_sums(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor, sums: torch.Tensor) -> Any:
    """Write left @ right and the sums of its rows, (n, n) and (n,) in float32, n a multiple of BLOCK; return the kernel."""
    size = left.shape[0]
    assert size % BLOCK == 0, size
    return _kernel[(size // BLOCK,)](left, right, product, sums, size, block=BLOCK)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _kernel(left, right, product, sums, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute `block` rows: a tile at a time, by the matrix units, with a reduction over each."""
    rows = tl.program_id(0) * block + tl.arange(0, block)
    total = tl.zeros((block,), tl.float32)
    for first_column in range(0, size, block):
        columns = first_column + tl.arange(0, block)
        tile = tl.zeros((block, block), tl.float32)
        for first in range(0, size, block):
            inner = first + tl.arange(0, block)
            a = tl.load(left + rows[:, None] * size + inner[None, :])
            b = tl.load(right + inner[:, None] * size + columns[None, :])
            tile = tl.dot(a, b, tile)
        tl.store(product + rows[:, None] * size + columns[None, :], tile)
        total += tl.sum(tile, 1)
    tl.store(sums + rows, total)
