"""All experts of a layer as grouped products, in the form in which transformers calls an experts' function.

With x a token's hidden state, e one of its experts, p its routing weight, W the frozen weights, and adapters A, B of
scale s (Hu et al. 2021, arXiv:2106.09685):

    h = W1[e] x + s B1[e] (A1[e] x) + b1[e]      a = gate(h)      y = sum over e of p (W2[e] a + s B2[e] (A2[e] a) + b2[e])

The gradient of p is taken on a's side of the last product, so that its result is not kept. Kept for the backward pass: x, h,
and the low-rank values; what is sorted by expert is gathered again, and the gate computed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.integrations.moe import ExpertsInterface

from tanren.common.experts._adapter import GROUPED, PRODUCTS
from tanren.common.experts._low_rank import Factors, LowRank
from tanren.common.experts._products import Groups, by_expert
from tanren.common.experts._routing import Routing, sum_of_rows


@dataclass(frozen=True)
class _Weights:
    """The frozen weights of a layer's experts, laid out as (experts, in, out) without a copy."""

    gate_up: torch.Tensor
    down: torch.Tensor
    gate_up_bias: torch.Tensor | None
    """(experts, out)"""
    down_bias: torch.Tensor | None
    gate: Any
    """The library's own gate, elementwise: (rows, 2 * width) to (rows, width)."""

    @staticmethod
    def of(module: Any) -> _Weights:
        """Take them from the library's module."""
        gate_up, down = (
            weight.detach() if module.is_transposed else weight.detach().transpose(1, 2)
            for weight in (module.gate_up_proj, module.down_proj)
        )
        first, second = (getattr(module, f"{name}_bias").detach() if module.has_bias else None for name in PRODUCTS)
        return _Weights(gate_up, down, first, second, module._apply_gate)

    def adapters(self, factors: Any, scales: tuple[float, float]) -> tuple[LowRank | None, LowRank | None]:
        """Lay the adapters of both products out; None where there is none."""
        pairs = zip(factors[::2], factors[1::2], scales, strict=True)
        first, second = (
            None if a is None else LowRank.of(a, b, scale, len(self.gate_up), self.gate_up.dtype)
            for a, b, scale in pairs
        )
        return first, second


class _Experts(torch.autograd.Function):
    """From hidden states and routing weights to the experts' sum; gradients of both, and of the adapters."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weights: torch.Tensor,
        index: torch.Tensor,
        frozen: _Weights,
        scales: tuple[float, float],
        *factors: torch.Tensor | None,
    ) -> torch.Tensor:
        routing = Routing.of(index, len(frozen.gate_up))
        groups = routing.groups
        first, second = frozen.adapters(factors, scales)
        gathered = x.index_select(0, routing.tokens)
        gate_up = by_expert(gathered, frozen.gate_up, groups)
        low_first = None if first is None else first.add(gate_up, gathered, groups)
        del gathered
        if frozen.gate_up_bias is not None:
            gate_up += frozen.gate_up_bias[routing.sort(index)]
        gated = frozen.gate(gate_up)
        rows = by_expert(gated, frozen.down, groups)
        low_second = None if second is None else second.add(rows, gated, groups)
        del gated
        share = weights.to(rows.dtype)
        out = sum_of_rows(rows, routing.places, share)
        if frozen.down_bias is not None:
            out += sum_of_rows(frozen.down_bias, index, share)
        ctx.frozen, ctx.scales = frozen, scales
        sorting = (routing.order, routing.places, groups.ends)  # saved, so that a checkpoint drops them, too
        ctx.save_for_backward(x, weights, index, *sorting, gate_up, low_first, low_second, *factors)
        return out

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor) -> Any:
        x, weights, index, order, places, ends, gate_up, low_first, low_second, *factors = ctx.saved_tensors
        frozen, groups = ctx.frozen, Groups(ends)
        routing = Routing(order, places, groups)
        first, second = frozen.adapters(factors, ctx.scales)
        gradients: list[torch.Tensor | None] = [None] * 4
        share = routing.sort(weights).unsqueeze(1)

        d_rows = above.index_select(0, routing.tokens)  # but for the routing weights
        d_gated = by_expert(d_rows, frozen.down.transpose(1, 2), groups)
        with torch.enable_grad():
            leaf = gate_up.detach().requires_grad_()
            made = frozen.gate(leaf)
        gated = made.detach()
        if second is not None:
            gradients[2:] = second.backward(d_rows, d_gated, gated, low_second, groups, share)
        del d_rows
        d_weights = routing.unsort((d_gated * gated).sum(1))
        if frozen.down_bias is not None:
            d_weights += (above @ frozen.down_bias.t()).gather(1, index)
        d_gated *= share
        (d_gate_up,) = torch.autograd.grad(made, leaf, d_gated)
        del made, leaf, gated, d_gated
        d_gathered = by_expert(d_gate_up, frozen.gate_up.transpose(1, 2), groups)
        if first is not None:
            gradients[:2] = first.backward(d_gate_up, d_gathered, x.index_select(0, routing.tokens), low_first, groups)
        del d_gate_up
        cast = [None if one is None else one.to(factor.dtype) for one, factor in zip(gradients, factors, strict=True)]
        return sum_of_rows(d_gathered, routing.places), d_weights.to(weights.dtype), None, None, None, *cast


def grouped_experts(
    module: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
    adapters: Mapping[str, Factors] | None = None,
) -> torch.Tensor:
    """Return the weighted sum of each token's experts, (tokens, hidden).

    `hidden_states` (tokens, hidden); `top_k_index` and `top_k_weights` (tokens, experts of a token). Adapters are named
    after the parameter that they belong to. The experts' own weights get no gradient.
    """
    assert not any(getattr(module, name).requires_grad for name in PRODUCTS), "grouped experts are frozen"
    found = [None if adapters is None else adapters.get(name) for name in PRODUCTS]
    factors = [part for one in found for part in ((None, None) if one is None else (one.a, one.b))]
    scales = tuple(0.0 if one is None else one.scale for one in found)
    x = hidden_states.to(module.gate_up_proj.dtype)
    out: torch.Tensor = _Experts.apply(x, top_k_weights, top_k_index, _Weights.of(module), scales, *factors)  # type: ignore[no-untyped-call]
    return out.to(hidden_states.dtype)


ExpertsInterface.register(GROUPED, grouped_experts)
