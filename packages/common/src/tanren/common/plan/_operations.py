"""What one operation asks of the device: products in floating point, bytes moved, a kernel launch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tanren.common.experts import FLOPS as FLOPS_OF_EXPERTS

aten = torch.ops.aten


@dataclass(frozen=True)
class Operation:
    """One kernel: its floating-point operations in matrix products, the bytes that it reads and writes, its precision."""

    flops: float
    moved: int
    matrix: str
    """Precision of its matrix product, as torch names it; '' for an operation that has none."""


def operation_of(
    func: Any, args: Sequence[Any], inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
) -> Operation | None:
    """Return what the operation costs; None for one that makes a view or nothing at all."""
    places = {id(tensor.untyped_storage()) for tensor in inputs}
    changes_in_place = func._schema.is_mutable
    fresh = [tensor for tensor in outputs if id(tensor.untyped_storage()) not in places]
    if not changes_in_place and not fresh:
        return None
    if func in _ALLOCATES_ONLY:
        return None
    flops = _FLOPS[func](args, outputs) if func in _FLOPS else 0.0
    moved = sum(map(_bytes, inputs)) + sum(map(_bytes, outputs if changes_in_place else fresh))
    return Operation(flops, moved, str(inputs[0].dtype).removeprefix("torch.") if flops else "")


def register_flops(func: Any, flops: Callable[[Sequence[Any], Sequence[torch.Tensor]], float]) -> None:
    """Say how many floating-point operations an operation of ours does."""
    _FLOPS[func] = flops


def _bytes(tensor: torch.Tensor) -> int:
    """Bytes behind a tensor: an expanded one is read where it lies, not as often as it is repeated."""
    shown = tensor.numel() * tensor.element_size()
    return min(shown, tensor.untyped_storage().nbytes())


def _product(first: torch.Tensor, second: torch.Tensor) -> float:
    return 2.0 * math.prod(first.shape) * second.shape[-1]


_FLOPS: dict[Any, Callable[[Sequence[Any], Sequence[torch.Tensor]], float]] = {
    aten.mm.default: lambda args, _: _product(args[0], args[1]),
    aten.bmm.default: lambda args, _: _product(args[0], args[1]),
    aten.addmm.default: lambda args, _: _product(args[1], args[2]),
    aten.baddbmm.default: lambda args, _: _product(args[1], args[2]),
    # (rows, in) by (experts, in, out): a row meets one expert. (in, rows) by (rows, out): the experts' own gradient.
    aten._grouped_mm.default: lambda args, _: _product(args[0], args[1]),
    **FLOPS_OF_EXPERTS,
}
_ALLOCATES_ONLY = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}
