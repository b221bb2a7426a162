"""A decoder layer in three steps with backward passes of their own: before attention, after it, and the MLP.

Autograd would keep the result of every operation and run each in a pass of its own over memory. These keep what the
backward pass cannot make anew cheaply, add the adapters where a kernel passes anyway, and take weight gradients for the
adapters alone. The formulas are those of the plain layer; `_proof` holds both against each other on the model itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from tanren.common.fused._operations import (
    Heads,
    Low,
    rms_norm,
    rms_norm_backward,
    rotate,
    rotate_backward,
    swiglu,
    swiglu_backward,
)
from tanren.common.fused._projections import Projections

Gradients = tuple[torch.Tensor | None, ...]
Kept = Literal["gate_up", "low", "input"]
"""What an MLP keeps for its backward pass beside its input: gate and up; only its adapters' small products; nothing."""


@dataclass(frozen=True)
class Norm:
    """A root-mean-square norm, frozen."""

    weight: torch.Tensor
    eps: float


@dataclass(frozen=True)
class AttentionParts:
    """What stands before and after the attention of a layer."""

    norm: Norm
    qkv: Projections
    heads: Heads
    out: Projections
    scale: float
    window: int


@dataclass(frozen=True)
class MlpParts:
    """A gated MLP with its norm."""

    norm: Norm
    gate_up: Projections
    down: Projections


class _BeforeAttention(torch.autograd.Function):
    """x -> query, key, value, and x itself: so its gradient past the attention is added in the norm's own pass."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, parts: AttentionParts, cos: torch.Tensor, sin: torch.Tensor, *_: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        normed = rms_norm(x, parts.norm.weight, parts.norm.eps)
        qkv, low = parts.qkv(normed)
        query, key, value = rotate(qkv, low, cos, sin, parts.heads)
        ctx.parts = parts
        # Without norms the results are not needed again; their low-rank values alone would hold them in memory.
        kept = (qkv, low.values) if parts.heads.query_norm is not None else (None, _own(low.values))
        ctx.save_for_backward(x, *kept, cos, sin)
        return query, key, value, x

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Gradients:
        dq, dk, dv, residual = gradients
        x, qkv, values, cos, sin = ctx.saved_tensors
        parts: AttentionParts = ctx.parts
        low = parts.qkv.low_of(values)
        dqkv = rotate_backward((dq, dk, dv), qkv, low, cos, sin, parts.heads, parts.qkv.room)
        d_low = parts.qkv.gradient_of_low(dqkv)
        d_bs = parts.qkv.gradients_of_b(dqkv, low)
        if ctx.needs_input_grad[0]:
            above = parts.qkv.gradient_of_input(dqkv, d_low)
            dx, normed = rms_norm_backward(above, x, parts.norm.weight, parts.norm.eps, residual)
        else:
            dx, normed = None, rms_norm(x, parts.norm.weight, parts.norm.eps)
        return dx, None, None, None, *parts.qkv.gradients(normed, d_low, d_bs)


class _AfterAttention(torch.autograd.Function):
    """The output projection and the residual: x + project(attended)."""

    @staticmethod
    def forward(ctx: Any, attended: torch.Tensor, x: torch.Tensor, out: Projections, *_: torch.Tensor) -> torch.Tensor:
        low = out.low(attended)
        ctx.out = out
        ctx.save_for_backward(attended, low.values)
        return _added(x, attended, out, low)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Gradients:
        (dy,) = gradients
        attended, values = ctx.saved_tensors
        out: Projections = ctx.out
        d_low = out.gradient_of_low(dy)
        found = out.gradients(attended, d_low, out.gradients_of_b(dy, out.low_of(values)))
        d_attended = out.gradient_of_input(dy, d_low)
        return d_attended, dy if ctx.needs_input_grad[1] else None, None, *found


class _Mlp(torch.autograd.Function):
    """x + down(silu(gate(normed x)) * up(normed x)).

    `need`: the result is needed; of a recomputation nobody reads it.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, parts: MlpParts, keep: Kept, need: bool, *_: torch.Tensor) -> torch.Tensor:
        ctx.parts = parts
        if not need:
            assert keep == "input", "what is computed again is not kept"
            ctx.save_for_backward(x, None, None, None)
            return torch.empty_like(x)
        gate_up, low = _gate_up(x, parts)
        act = swiglu(gate_up, low)
        down_low = parts.down.low(act)
        kept = (gate_up, low.values) if keep == "gate_up" else (None, None)
        ctx.save_for_backward(x, *kept, None if keep == "input" else down_low.values)
        return _added(x, act, parts.down, down_low)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Gradients:
        (dy,) = gradients
        x, gate_up, values, down_values = ctx.saved_tensors
        parts: MlpParts = ctx.parts
        if gate_up is None:
            gate_up, low = _gate_up(x, parts)
        else:
            low = parts.gate_up.low_of(values)
        down = parts.down
        e = down.gradient_of_low(dy)
        if e is not None and down_values is None:
            down_values = down.low(swiglu(gate_up, low)).values
        d_act = down.frozen.gradient(dy)
        d_gate_up, d_down_a, d_gate_b, d_up_b = swiglu_backward(d_act, e, down.down, gate_up, low, parts.gate_up.room)
        del d_act, gate_up
        d_low = parts.gate_up.gradient_of_low(d_gate_up)
        above = parts.gate_up.gradient_of_input(d_gate_up, d_low)
        dx, normed = rms_norm_backward(above, x, parts.norm.weight, parts.norm.eps, dy)
        found = parts.gate_up.gradients(normed, d_low, (d_gate_b, d_up_b))
        found += down.scaled(d_down_a, down.gradients_of_b(dy, down.low_of(down_values)))
        return dx, None, None, None, *found


def before_attention(
    x: torch.Tensor, parts: AttentionParts, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, key and value, (tokens, heads, head size), and `x` to be handed to `after_attention`."""
    made = _BeforeAttention.apply(x, parts, cos, sin, *parts.qkv.parameters)  # type: ignore[no-untyped-call]
    query, key, value, x = made
    return query, key, value, x


def after_attention(attended: torch.Tensor, x: torch.Tensor, parts: AttentionParts) -> torch.Tensor:
    """Return x + project(attended); `attended` (tokens, heads x head size)."""
    result: torch.Tensor = _AfterAttention.apply(attended, x, parts.out, *parts.out.parameters)  # type: ignore[no-untyped-call]
    return result


def mlp(x: torch.Tensor, parts: MlpParts, *, keep: Kept, need: bool) -> torch.Tensor:
    """Return x with what the MLP adds (see `_Mlp`)."""
    parameters = (*parts.gate_up.parameters, *parts.down.parameters)
    result: torch.Tensor = _Mlp.apply(x, parts, keep, need, *parameters)  # type: ignore[no-untyped-call]
    return result


def _gate_up(x: torch.Tensor, parts: MlpParts) -> tuple[torch.Tensor, Low]:
    return parts.gate_up(rms_norm(x, parts.norm.weight, parts.norm.eps))


def _own(values: torch.Tensor | None) -> torch.Tensor | None:
    """Values in memory of their own."""
    return None if values is None else values.clone(memory_format=torch.contiguous_format)


def _added(x: torch.Tensor, inner: torch.Tensor, projection: Projections, low: Low) -> torch.Tensor:
    """x + the projection of `inner`, with its adapter."""
    result = projection.frozen.added(x, inner)
    if low.values is not None and low.up is not None:
        result.addmm_(low.values, low.up.t())
    return result
