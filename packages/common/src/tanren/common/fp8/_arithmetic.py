"""Products of matrices whose rows are in float8_e4m3fn, each with a scale of its own (Micikevicius et al. 2022, arXiv:2209.05433).

On CUDA the products run on the matrix units' 8-bit inputs and sum in float32; elsewhere the same rounded values are multiplied
in float32. Hopper takes the second matrix only in the layout in which its rows are what is summed over. So the
gradient's product, which sums over outputs, reads a copy of the weights that is turned in passing: kept for good it would
make 2 bytes a weight, as bfloat16 has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tanren.common.fp8._range import FLOAT8, LARGEST, TINY

if TYPE_CHECKING:
    from types import ModuleType

ALIGNED = 16
"""Both widths of a weight are multiples of it: the matrix units read 16 bytes at once (torch's `_scaled_mm` asks for it)."""


@dataclass
class _Inputs:
    """Whether inputs are rounded; no context variable, for backward passes run in threads of their own."""

    rounded: bool = True


_inputs = _Inputs()


@dataclass(frozen=True)
class Rows:
    """A matrix whose row i is scales[i] * values[i]: `values` (rows, columns) in float8_e4m3fn, `scales` (rows, 1) in float32."""

    values: torch.Tensor
    scales: torch.Tensor

    def whole(self) -> torch.Tensor:
        """Return the matrix in float32."""
        return self.values.float() * self.scales


def quantise_rows(x: torch.Tensor, factors: torch.Tensor | None = None) -> Rows:
    """Return x * factors rounded to 8 bits, each row by its largest value; `x` (rows, columns), `factors` (columns) in float32."""
    if x.is_meta:
        values, scales = torch.ops.tanren_fp8.rounded(x)
        return Rows(values, scales)
    if x.is_cuda:
        return Rows(*_triton().quantise_rows(x, factors))
    wide = x.float() if factors is None else x.float() * factors
    largest = wide.abs().amax(dim=1, keepdim=True).clamp(min=TINY)
    factor = largest.new_tensor(LARGEST) / largest  # a number over a tensor would be its reciprocal times the number
    return Rows((wide * factor).to(FLOAT8), largest / LARGEST)


def product(x: Rows, weight: Rows, dtype: torch.dtype) -> torch.Tensor:
    """Return x @ weight.T, (rows of x, rows of weight); on CUDA `dtype` is bfloat16."""
    if x.values.is_meta:
        made: torch.Tensor = torch.ops.tanren_fp8.scaled_product(x.values, weight.values, dtype)
        return made
    if x.values.is_cuda:
        # Fast sums have 14 bits on Hopper (arXiv:2412.19437, 3.3.2): far more than the 4 of the inputs.
        return torch._scaled_mm(
            x.values,
            weight.values.t(),
            scale_a=x.scales,
            scale_b=weight.scales.t(),
            out_dtype=dtype,
            use_fast_accum=True,
        )
    return ((x.values.float() @ weight.values.float().t()) * x.scales * weight.scales.t()).to(dtype)


def rounded_product(x: torch.Tensor, weight: Rows) -> torch.Tensor:
    """Return x @ weight.T, (tokens, rows of weight), with `x` (tokens, columns of weight) rounded row by row."""
    if not _inputs.rounded:
        return x @ weight.whole().to(x.dtype).t()
    return product(quantise_rows(x), weight, x.dtype)


def gradient_product(dy: torch.Tensor, weight: Rows) -> torch.Tensor:
    """Return dy @ weight, (tokens, columns of weight), `dy` (tokens, rows of weight) rounded row by row as well.

    The weights' scales stand along what is summed over, so they go into `dy` before it is rounded: the weights are
    those of the forward pass to the bit.
    """
    if not _inputs.rounded:
        return dy @ weight.whole().to(dy.dtype)
    turned = _turned(weight.values)
    ones = torch.ones((len(turned), 1), dtype=torch.float32, device=turned.device)
    return product(quantise_rows(dy, weight.scales[:, 0]), Rows(turned, ones), dy.dtype)


@contextmanager
def unrounded_inputs() -> Iterator[None]:
    """Multiply inputs and gradients as they are, with weights that are still rounded.

    Two ways through a model differ in the last bit, round to 4 bits apart there, and end as far from each other as from the unrounded
    numbers. Without that they can be held against each other. Slow, and for one thread of work at a time.
    """
    _inputs.rounded = False
    try:
        yield
    finally:
        _inputs.rounded = True


def _turned(values: torch.Tensor) -> torch.Tensor:
    """Return the matrix transposed, row after row in memory."""
    if values.is_cuda:
        turned: torch.Tensor = _triton().turned(values)
        return turned
    return values.t().contiguous()


def _triton() -> ModuleType:
    from tanren.common.fp8 import _kernels

    return _kernels


@torch.library.custom_op("tanren_fp8::rounded", mutates_args=())
def _rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    raise NotImplementedError("a stand-in: it runs on tensors without data only")


@_rounded.register_fake
def _rounded_shapes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x, dtype=FLOAT8), x.new_empty(len(x), 1, dtype=torch.float32)


@torch.library.custom_op("tanren_fp8::scaled_product", mutates_args=())
def _scaled_product(values: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    raise NotImplementedError("a stand-in: it runs on tensors without data only")


@_scaled_product.register_fake
def _scaled_product_shape(values: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return values.new_empty(len(values), len(weight), dtype=dtype)
