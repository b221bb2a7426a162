"""A frozen linear layer whose weight is kept in 8-bit floating point, with one scale for each output."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tanren.common.fp8._arithmetic import Rows, gradient_product, quantise_rows, rounded_product
from tanren.common.fp8._range import FLOAT8


class _Product(torch.autograd.Function):
    """x @ W.T with x rounded row by row; the gradient passes the rounding as if there were none (straight through)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Fp8Linear) -> torch.Tensor:
        ctx.layer = layer
        return rounded_product(x, layer.rows)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradient_product(gradients[0].contiguous(), ctx.layer.rows), None


class Fp8Linear(nn.Linear):
    """x -> x @ W.T + bias; `weight` holds W's values (out, in) as bytes, `scales` (out, 1) their factors.

    As bytes, because libraries take a weight in floating point for one whose precision adapters should have.
    """

    scales: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """Take the place of a layer, on its device."""
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        rounded = quantise_rows(linear.weight.detach())
        self.weight = nn.Parameter(rounded.values.view(torch.uint8), requires_grad=False)
        self.register_buffer("scales", rounded.scales)
        self.bias = linear.bias
        self.compute_dtype = linear.weight.dtype
        self.train(linear.training)

    @property
    def rows(self) -> Rows:
        """The weight with its scales."""
        return Rows(self.weight.detach().view(FLOAT8), self.scales)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        """Multiply rounded inputs with the rounded weight, and add the bias."""
        made: torch.Tensor = _Product.apply(input.reshape(-1, self.in_features), self)  # type: ignore[no-untyped-call]
        result = made.view(*input.shape[:-1], self.out_features)
        return result if self.bias is None else result + self.bias
