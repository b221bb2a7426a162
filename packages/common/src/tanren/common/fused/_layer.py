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
    add,
    add_norm,
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


@dataclass(frozen=True)
class Branch:
    """What attention or an MLP adds to the stream x: added where the sum is normed next, in one pass over memory."""

    made: torch.Tensor
    """As `by` returned it, its adapter still to be multiplied by B."""
    by: Projections


@dataclass(frozen=True)
class Stream:
    """The hidden states between the parts of a layer: x, (tokens, width), and what is still to be added to it."""

    x: torch.Tensor
    branch: Branch | None = None


class _BeforeAttention(torch.autograd.Function):
    """The stream -> query, key, value, and the sum itself: so its gradient past the attention is added in the norm's own pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        made: torch.Tensor | None,
        by: Projections | None,
        parts: AttentionParts,
        cos: torch.Tensor,
        sin: torch.Tensor,
        *_: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        x, normed = _normed(x, made, by, parts.norm)
        qkv, low = parts.qkv.parts(parts.qkv(normed))
        query, key, value = rotate(qkv, low, cos, sin, parts.heads)
        ctx.parts, ctx.by = parts, by
        # Without norms the results are not needed again; their low-rank values alone would hold them in memory.
        kept = (qkv, low.values) if parts.heads.query_norm is not None else (None, _own(low.values))
        ctx.save_for_backward(x, *kept, cos, sin)
        return query, key, value, x

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Gradients:
        dq, dk, dv, residual = gradients
        x, qkv, values, cos, sin = ctx.saved_tensors
        parts: AttentionParts = ctx.parts
        norm, projections = parts.norm, parts.qkv
        dqkv = rotate_backward((dq, dk, dv), qkv, projections.low(values), cos, sin, parts.heads, projections.room)
        projections.complete(dqkv)
        d_bs = projections.gradients_of_b(dqkv, values)
        dx, d_made = None, None
        if ctx.needs_input_grad[0]:
            above = projections.gradient_of_input(dqkv)
            dx, d_made, normed = _summed_backward(above, x, norm, residual, ctx.by)
        else:
            normed = rms_norm(x, norm.weight, norm.eps)
        return dx, d_made, None, None, None, None, *projections.gradients(normed, dqkv, d_bs)


class _AfterAttention(torch.autograd.Function):
    """The output projection."""

    @staticmethod
    def forward(ctx: Any, attended: torch.Tensor, out: Projections, *_: torch.Tensor) -> torch.Tensor:
        made = out(attended)
        ctx.out = out
        ctx.save_for_backward(attended, _own(out.parts(made)[1].values))
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Gradients:
        (d_made,) = gradients
        attended, values = ctx.saved_tensors
        out: Projections = ctx.out
        found = out.gradients(attended, d_made, out.gradients_of_b(d_made, values))
        return out.gradient_of_input(d_made), None, *found


class _Mlp(torch.autograd.Function):
    """The stream -> the sum, and down(silu(gate(its norm)) * up(its norm)).

    `need`: the result is needed; of a recomputation nobody reads it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        made: torch.Tensor,
        by: Projections,
        parts: MlpParts,
        keep: Kept,
        need: bool,
        *_: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.parts, ctx.by = parts, by
        if not need:
            assert keep == "input", "what is computed again is not kept"
            x = add(x, *by.parts(made))
            ctx.save_for_backward(x, None, None, None)
            return x, _unread(x, parts.down.out + parts.down.room)
        x, normed = _normed(x, made, by, parts.norm)
        gate_up, low = parts.gate_up.parts(parts.gate_up(normed))
        result = parts.down(swiglu(gate_up, low))
        kept = (gate_up, low.values) if keep == "gate_up" else (None, None)
        down_values = None if keep == "input" else _own(parts.down.parts(result)[1].values)
        ctx.save_for_backward(x, *kept, down_values)
        return x, result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Gradients:
        residual, d_made = gradients
        x, gate_up, values, down_values = ctx.saved_tensors
        parts: MlpParts = ctx.parts
        down, norm = parts.down, parts.norm
        if gate_up is None:
            gate_up, low = parts.gate_up.parts(parts.gate_up(rms_norm(x, norm.weight, norm.eps)))
        else:
            low = parts.gate_up.low(values)
        if down.room and down_values is None:
            down_values = down.parts(down(swiglu(gate_up, low)))[1].values
        d_act = down.gradient_of_input(d_made)
        e = d_made[:, down.out : down.out + sum(down.ranks)] if down.room else None
        d_gate_up, d_down_a, *d_bs = swiglu_backward(d_act, e, gate_up, low, parts.gate_up.room)
        del d_act, gate_up
        parts.gate_up.complete(d_gate_up)
        above = parts.gate_up.gradient_of_input(d_gate_up)
        dx, d_branch, normed = _summed_backward(above, x, norm, residual, ctx.by)
        found = parts.gate_up.gradients(normed, d_gate_up, d_bs)
        found += down.scaled(d_down_a, down.gradients_of_b(d_made, down_values))
        return dx if ctx.needs_input_grad[0] else None, d_branch, None, None, None, None, *found


class _Sum(torch.autograd.Function):
    """The sum of the stream; with a norm, its norm."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, made: torch.Tensor | None, by: Projections | None, norm: Norm | None, need: bool
    ) -> torch.Tensor:
        ctx.by, ctx.norm = by, norm
        if norm is not None:
            x, normed = _normed(x, made, by, norm)
            ctx.save_for_backward(x)
            return normed
        assert made is not None, "nothing to add"
        assert by is not None, "nothing to add"
        return add(x, *by.parts(made)) if need else _unread(x, by.out)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Gradients:
        (dy,) = gradients
        by: Projections | None = ctx.by
        if ctx.norm is not None:
            (x,) = ctx.saved_tensors
            dx, d_made, _ = _summed_backward(dy, x, ctx.norm, None, by)
            return dx, d_made, None, None, None
        assert by is not None
        d_made = dy.new_empty(len(dy), by.out + by.room)
        d_made[:, : by.out].copy_(dy)
        return d_made[:, : by.out], by.complete(d_made), None, None, None  # not dy: its memory can be given back


def before_attention(
    stream: Stream, parts: AttentionParts, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, key and value, (tokens, heads, head size), and the stream's sum."""
    made = _BeforeAttention.apply(*_taken(stream), parts, cos, sin, *parts.qkv.parameters)  # type: ignore[no-untyped-call]
    query, key, value, x = made
    return query, key, value, x


def after_attention(attended: torch.Tensor, parts: AttentionParts) -> Branch:
    """Return the projection of what was attended to, (tokens, heads x head size)."""
    made: torch.Tensor = _AfterAttention.apply(attended, parts.out, *parts.out.parameters)  # type: ignore[no-untyped-call]
    return Branch(made, parts.out)


def mlp(stream: Stream, parts: MlpParts, *, keep: Kept, need: bool) -> Stream:
    """Return the stream with what the MLP adds (see `_Mlp`)."""
    parameters = (*parts.gate_up.parameters, *parts.down.parameters)
    x, made = _Mlp.apply(*_taken(stream), parts, keep, need, *parameters)  # type: ignore[no-untyped-call]
    return Stream(x, Branch(made, parts.down))


def summed(stream: Stream, *, need: bool) -> torch.Tensor:
    """Return the stream's sum, (tokens, width); `need` as in `_Mlp`."""
    result: torch.Tensor = _Sum.apply(*_taken(stream), None, need)  # type: ignore[no-untyped-call]
    return result


def normed(stream: Stream, norm: Norm) -> torch.Tensor:
    """Return the norm of the stream's sum, (tokens, width)."""
    result: torch.Tensor = _Sum.apply(*_taken(stream), norm, True)  # type: ignore[no-untyped-call]
    return result


def _taken(stream: Stream) -> tuple[torch.Tensor, torch.Tensor | None, Projections | None]:
    branch = stream.branch
    return (stream.x, None, None) if branch is None else (stream.x, branch.made, branch.by)


def _normed(
    x: torch.Tensor, made: torch.Tensor | None, by: Projections | None, norm: Norm
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of a stream, and its norm."""
    if made is None or by is None:
        return x, rms_norm(x, norm.weight, norm.eps)
    return add_norm(x, *by.parts(made), norm.weight, norm.eps)


def _summed_backward(
    above: torch.Tensor, x: torch.Tensor, norm: Norm, residual: torch.Tensor | None, by: Projections | None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """The gradients of x and of the branch from that of the sum's norm and of the sum itself; and the norm."""
    room = 0 if by is None else by.room
    d_made, y = rms_norm_backward(above, x, norm.weight, norm.eps, residual, room)
    return d_made[:, : x.shape[1]], None if by is None else by.complete(d_made), y


def _unread(x: torch.Tensor, width: int) -> torch.Tensor:
    """In the place of a result that nobody reads: its form, (tokens, width), without its memory."""
    return x.new_empty(1, 1).expand(len(x), width)


def _own(values: torch.Tensor | None) -> torch.Tensor | None:
    """Values in memory of their own."""
    return None if values is None else values.clone(memory_format=torch.contiguous_format)
