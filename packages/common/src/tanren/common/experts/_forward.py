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
from tanren.common.experts._gate import Gate
from tanren.common.experts._low_rank import Factors, LowRank
from tanren.common.experts._products import Groups, add_by_expert, by_expert, sums_by_expert
from tanren.common.experts._routing import Routing, sum_of_rows


@dataclass(frozen=True)
class _Layer:
    """What is frozen of a layer's experts; weights as (experts, in, out) without a copy."""

    gate_up: torch.Tensor
    gate: Gate
    down: torch.Tensor
    down_bias: torch.Tensor | None
    """(experts, out)"""

    @staticmethod
    def of(module: Any) -> _Layer:
        """Take it from the library's module."""
        gate_up, down = (
            weight.detach() if module.is_transposed else weight.detach().transpose(1, 2)
            for weight in (module.gate_up_proj, module.down_proj)
        )
        return _Layer(gate_up, Gate.of(module), down, module.down_proj_bias.detach() if module.has_bias else None)

    def adapters(self, factors: Any, scales: tuple[float, float]) -> tuple[LowRank | None, LowRank | None]:
        """Lay the adapters of both products out; None where there is none."""
        experts, dtype = len(self.gate_up), self.gate_up.dtype
        first, second = (
            None if a is None else LowRank.of(Factors(a, b, scale), experts, dtype)
            for a, b, scale in zip(factors[::2], factors[1::2], scales, strict=True)
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
        layer: _Layer,
        scales: tuple[float, float],
        *factors: torch.Tensor | None,
    ) -> torch.Tensor:
        routing = Routing.of(index, len(layer.gate_up))
        groups = routing.groups
        first, second = layer.adapters(factors, scales)
        gathered = x.index_select(0, routing.tokens)
        gate_up = by_expert(gathered, layer.gate_up, groups)
        low_first = None if first is None else by_expert(gathered, first.a.transpose(1, 2), groups)
        del gathered
        gated = layer.gate.forward(gate_up, low_first, first, groups)
        rows = by_expert(gated, layer.down, groups)
        low_second = None
        if second is not None:
            low_second = by_expert(gated, second.a.transpose(1, 2), groups)
            add_by_expert(rows, low_second, second.b, groups)
        del gated
        share = weights.to(rows.dtype)
        out = sum_of_rows(rows, routing.places, share)
        if layer.down_bias is not None:
            out += sum_of_rows(layer.down_bias, index, share)
        ctx.layer, ctx.scales = layer, scales
        sorting = (routing.order, routing.places, groups.ends)  # saved, so that a checkpoint drops them, too
        ctx.save_for_backward(x, weights, index, *sorting, gate_up, low_first, low_second, *factors)
        return out

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor) -> Any:
        x, weights, index, order, places, ends, gate_up, low_first, low_second, *factors = ctx.saved_tensors
        layer, groups = ctx.layer, Groups(ends)
        routing = Routing(order, places, groups)
        first, second = layer.adapters(factors, ctx.scales)
        share = routing.sort(weights).to(x.dtype)
        gradients: list[torch.Tensor | None] = [None] * 4

        d_rows = above.index_select(0, routing.tokens)  # but for the routing weights
        d_gated = by_expert(d_rows, layer.down.transpose(1, 2), groups)
        d_low = None if second is None else by_expert(d_rows, second.b.transpose(1, 2), groups)
        d_gate_up, d_share, d_a, d_b = layer.gate.backward(
            d_gated, d_low, gate_up, low_first, share, (first, second), groups
        )
        if second is not None:
            shared = low_second * share.unsqueeze(1)
            gradients[2:] = second.gradients(d_a, sums_by_expert(shared, d_rows, groups))
        del d_rows, d_gated
        d_weights = routing.unsort(d_share)
        if layer.down_bias is not None:
            d_weights = d_weights + (above @ layer.down_bias.t()).gather(1, index)
        d_gathered = by_expert(d_gate_up, layer.gate_up.transpose(1, 2), groups)
        if first is not None:
            d_low = by_expert(d_gate_up, first.b.transpose(1, 2), groups)
            add_by_expert(d_gathered, d_low, first.a, groups)
            gathered = x.index_select(0, routing.tokens)
            gradients[:2] = first.gradients(sums_by_expert(d_low, gathered, groups), d_b)
        cast = [None if one is None else one.to(factor.dtype) for one, factor in zip(gradients, factors, strict=True)]
        return sum_of_rows(d_gathered, places), d_weights.to(weights.dtype), None, None, None, *cast


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
    out: torch.Tensor = _Experts.apply(x, top_k_weights, top_k_index, _Layer.of(module), scales, *factors)  # type: ignore[no-untyped-call]
    return out.to(hidden_states.dtype)


ExpertsInterface.register(GROUPED, grouped_experts)
