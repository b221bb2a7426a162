"""A stand-in for a fused kernel on tensors without data: what it makes, and what it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


@torch.library.custom_op("tanren_fused::made", mutates_args=())
def _made(read: list[torch.Tensor], sizes: list[int], dtype: torch.dtype) -> list[torch.Tensor]:
    raise NotImplementedError("a stand-in: it runs on tensors without data only")


@_made.register_fake
def _made_shapes(read: list[torch.Tensor], sizes: list[int], dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.empty(size, dtype=dtype, device=read[0].device) for size in sizes]


def made(read: Sequence[torch.Tensor], shapes: Sequence[torch.Size], dtype: torch.dtype) -> list[torch.Tensor]:
    """Return new tensors of these shapes, for an operation that reads those."""
    flat: list[torch.Tensor] = _made(list(read), [math.prod(shape) for shape in shapes], dtype)
    return [one.view(shape) for one, shape in zip(flat, shapes, strict=True)]
