"""Stand-ins on tensors without data: what products and kernels make, read and change, so that the planner counts it.

torch's own grouped product refuses tensors without data in float32; kernels cannot run on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_NO_DATA = "a stand-in: it runs on tensors without data only"


@torch.library.custom_op("tanren_experts::by_expert", mutates_args=())
def _by_expert(rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError(_NO_DATA)


@_by_expert.register_fake
def _by_expert_shape(rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    return rows.new_empty(rows.shape[0], matrices.shape[2])


@torch.library.custom_op("tanren_experts::sums_by_expert", mutates_args=())
def _sums_by_expert(left: torch.Tensor, right: torch.Tensor, experts: int) -> torch.Tensor:
    raise NotImplementedError(_NO_DATA)


@_sums_by_expert.register_fake
def _sums_by_expert_shape(left: torch.Tensor, right: torch.Tensor, experts: int) -> torch.Tensor:
    return left.new_empty(experts, left.shape[1], right.shape[1])


@torch.library.custom_op("tanren_experts::add_by_expert", mutates_args=("into",))
def _add_by_expert(into: torch.Tensor, rows: torch.Tensor, matrices: torch.Tensor) -> None:
    raise NotImplementedError(_NO_DATA)


@_add_by_expert.register_fake
def _add_by_expert_shape(into: torch.Tensor, rows: torch.Tensor, matrices: torch.Tensor) -> None:
    pass


@torch.library.custom_op("tanren_experts::made", mutates_args=())
def _made(read: list[torch.Tensor], rows: int, columns: int) -> torch.Tensor:
    raise NotImplementedError(_NO_DATA)


@_made.register_fake
def _made_shape(read: list[torch.Tensor], rows: int, columns: int) -> torch.Tensor:
    return read[0].new_empty(rows, columns)


def by_expert(rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """See `_products.by_expert`."""
    made: torch.Tensor = _by_expert(rows, matrices)
    return made


def sums_by_expert(left: torch.Tensor, right: torch.Tensor, experts: int) -> torch.Tensor:
    """See `_products.sums_by_expert`."""
    made: torch.Tensor = _sums_by_expert(left, right, experts)
    return made


def add_by_expert(into: torch.Tensor, rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """See `_products.add_by_expert`."""
    _add_by_expert(into, rows, matrices)
    return into


def made(read: Sequence[torch.Tensor | None], rows: int, columns: int) -> torch.Tensor:
    """Return what one kernel makes of what it reads, (rows, columns)."""
    out: torch.Tensor = _made([one for one in read if one is not None], rows, columns)
    return out


def product_flops(args: Sequence[Any], _: Any) -> float:
    """Return the floating-point operations of a product of rows by expert, or of such rows' outer products."""
    rows, other = args[:2]
    return 2.0 * int(rows.numel()) * int(other.shape[-1])


def addition_flops(args: Sequence[Any], _: Any) -> float:
    """Return those of a product that is added in passing."""
    return product_flops(args[1:], None)


_OPERATIONS = torch.ops.tanren_experts
FLOPS = {
    _OPERATIONS.by_expert.default: product_flops,
    _OPERATIONS.sums_by_expert.default: product_flops,
    _OPERATIONS.add_by_expert.default: addition_flops,
}
"""By operation: how many it takes, of its arguments."""
