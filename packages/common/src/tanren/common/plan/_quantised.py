"""Linear layers in 4 or 8 bits, on tensors without data: bytes and passing copies, no values.

8-bit floating point is our own, and is traced itself. bitsandbytes' layers have stand-ins: it replaces linear layers alone, so
embeddings, norms, the output head and experts that are fused into one tensor stay as they are. Both of its products make the weight
anew in the backward pass. The one in 8 bits keeps its input, though nothing is computed from it, and where checkpointing does not
reach it: in an attribute (bitsandbytes 0.50, `ctx.tensors`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tanren.common.config import Quantisation
from tanren.common.fp8 import Fp8Linear, quantised_layers
from tanren.common.nf4 import BLOCK, BLOCKS
from tanren.common.plan._operations import register_flops


@torch.library.custom_op("tanren_plan::dequantise", mutates_args=())
def _dequantise(packed: torch.Tensor, scales: torch.Tensor, rows: int, like: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError("a stand-in: it runs on tensors without data only")


@_dequantise.register_fake
def _dequantised_shape(packed: torch.Tensor, scales: torch.Tensor, rows: int, like: torch.Tensor) -> torch.Tensor:
    del scales
    weights = packed.numel() * (2 if packed.dtype == torch.uint8 else 1)
    return torch.empty((rows, weights // rows), dtype=like.dtype, device=like.device)


@torch.library.custom_op("tanren_plan::int8_product", mutates_args=())
def _int8_product(values: torch.Tensor, packed: torch.Tensor) -> list[torch.Tensor]:
    raise NotImplementedError("a stand-in: it runs on tensors without data only")


@_int8_product.register_fake
def _int8_product_shapes(values: torch.Tensor, packed: torch.Tensor) -> list[torch.Tensor]:
    """Return the result, the values in 8 bits, and the product in 32 (LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339)."""
    shape = (*values.shape[:-1], packed.shape[0])
    made: list[tuple[tuple[int, ...], torch.dtype]] = [(shape, values.dtype), (tuple(values.shape), torch.int8)]
    made.append((shape, torch.int32))
    return [torch.empty(size, dtype=dtype, device=values.device) for size, dtype in made]


register_flops(torch.ops.tanren_plan.int8_product.default, lambda args, _: 2.0 * args[0].numel() * args[1].shape[0])
register_flops(torch.ops.tanren_fp8.scaled_product.default, lambda args, _: 2.0 * args[0].numel() * args[1].shape[0])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, rows: int) -> torch.Tensor:
        ctx.save_for_backward(packed, scales)
        ctx.rows = rows
        if packed.dtype == torch.int8:
            ctx.held = values
            product: torch.Tensor = _int8_product(values, packed)[0]
            return product
        weight: torch.Tensor = _dequantise(packed, scales, rows, values)
        return values @ weight.t()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        packed, scales = ctx.saved_tensors
        return gradients[0] @ _dequantise(packed, scales, ctx.rows, gradients[0]), None, None, None


class QuantisedLinear(nn.Linear):
    """A linear layer whose weight is kept in 4 or 8 bits."""

    def __init__(self, linear: nn.Linear, quantisation: Quantisation) -> None:
        """Take the place of a layer on the meta device."""
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.stands_for, self.compute_dtype = quantisation, linear.weight.dtype
        size, rows = linear.weight.numel(), linear.out_features
        if quantisation == "nf4":
            packed = torch.empty((size // 2, 1), dtype=torch.uint8, device="meta")
            scales = torch.empty(size // BLOCK + 4 * (size // (BLOCK * BLOCKS)), dtype=torch.uint8, device="meta")
        else:
            packed = torch.empty((rows, linear.in_features), dtype=torch.int8, device="meta")
            scales = torch.empty(4 * rows, dtype=torch.uint8, device="meta")
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("scales", scales)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        """Multiply, with a copy of the weight in the input's precision (nf4) or in 8 bits (int8)."""
        result: torch.Tensor = _Product.apply(input, self.weight, self.scales, self.out_features)  # type: ignore[no-untyped-call]
        return result if self.bias is None else result + self.bias


def quantise(model: Any, quantisation: Quantisation) -> None:
    """Replace the linear layers of a model on the meta device, but its output head."""
    if quantisation == "none":
        return
    if quantisation == "fp8":
        for module, name, child in quantised_layers(model):
            setattr(module, name, Fp8Linear(child))
        return
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(module, name, QuantisedLinear(child, quantisation))
