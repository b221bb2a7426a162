"""The flash kernels: all packed samples in one call, grouped heads as they are, memory linear in the tokens.

Attention sinks (gpt-oss). A sink is one more key with the score s and the value 0. So the weights are those of plain
attention times g = exp(lse) / (exp(lse) + exp(s)) = sigmoid(lse - s), and with lse' = log(exp(lse) + exp(s)):

- FlashAttention-4 gives a gradient to lse, and `out * g` is all there is to do;
- torch's kernel gives none. But its backward pass makes the weights anew from lse: handed lse' and the output with
  sinks, it computes exactly the gradients of attention with sinks. For the sink itself remains
  ds = -sum over tokens of exp(s - lse') * (dout . out), since its value is 0.
"""

from __future__ import annotations

import inspect
import os
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch.nn.functional import pad

from tanren.common.attention._packing import Packing, Scores
from tanren.common.attention._shared import Kernel, attend_shared
from tanren.common.workspace import cache_folder


def flash_attention_4(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scores: Scores
) -> torch.Tensor:
    """FlashAttention-4 (flash-attn-4), compiled at its first call for each shape of heads, once on a machine: 15 s."""
    assert scores.softcap == scores.dropout == 0, scores
    if packing.shared is not None:
        return _shared(_FlashAttn4(), query, key, value, packing, scores)
    out, lse = _flash_attn_4().flash_attn_varlen_func(
        _rows(query),
        _rows(key),
        _rows(value),
        cu_seqlens_q=packing.cu_seqlens,
        cu_seqlens_k=packing.cu_seqlens,
        max_seqlen_q=packing.longest,
        max_seqlen_k=packing.longest,
        softmax_scale=scores.scale,
        causal=True,
        window_size=(scores.window - 1, 0) if scores.window else (None, None),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        return_lse=scores.sinks is not None,
    )
    if scores.sinks is not None:
        gate = torch.sigmoid(lse.transpose(0, 1) - scores.sinks.float())  # (tokens, heads)
        out = (out * gate.unsqueeze(-1)).to(out.dtype)
    result: torch.Tensor = out.unsqueeze(0)
    return result


def flash_attention_2(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scores: Scores
) -> torch.Tensor:
    """FlashAttention-2, where the user built it (the task install-flash-attn)."""
    from flash_attn import flash_attn_varlen_func

    assert scores.softcap == 0, scores
    assert scores.sinks is None
    assert packing.shared is None, "the choice of the kernel knows which ones share"
    out: torch.Tensor = flash_attn_varlen_func(
        _rows(query),
        _rows(key),
        _rows(value),
        packing.cu_seqlens,
        packing.cu_seqlens,
        packing.longest,
        packing.longest,
        dropout_p=scores.dropout,
        softmax_scale=scores.scale,
        causal=True,
        window_size=(scores.window - 1, 0) if scores.window else (-1, -1),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    return out.unsqueeze(0)


def varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scores: Scores
) -> torch.Tensor:
    """torch.nn.attention.varlen, and for sinks the kernel below it."""
    assert scores.softcap == scores.dropout == 0, scores
    size, narrow = query.shape[-1], value.shape[-1]
    if narrow < size:  # latent attention: one size for all three
        value = pad(value, (0, size - narrow))
    if packing.shared is not None:
        return _shared(_Varlen(), query, key, value, packing, scores)[..., :narrow]
    rows = (_rows(query), _rows(key), _rows(value))
    window = (scores.window - 1, 0) if scores.window else (-1, 0)
    if scores.sinks is None:
        from torch.nn.attention.varlen import varlen_attn

        ends, longest = packing.cu_seqlens, packing.longest
        grouped = _grouped_heads() if query.shape[1] != key.shape[1] else {}
        out = varlen_attn(*rows, ends, ends, longest, longest, scale=scores.scale, window_size=window, **grouped)
    else:
        out = _FlashWithSinks.apply(  # type: ignore[no-untyped-call]
            *rows, scores.sinks, packing, scores.scale, window
        )
    assert isinstance(out, torch.Tensor)
    return out[..., :narrow].unsqueeze(0)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """(1, heads, tokens, size) -> (tokens, heads, size), without a copy: the kernels read strides.

    Not by index: its backward pass would fill a tensor of zeros and copy the gradient into it.
    """
    return tensor.squeeze(0).transpose(0, 1)


def _shared(
    kernel: Kernel,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    scores: Scores,
) -> torch.Tensor:
    assert not scores.window, "a window ends at other places for every sample that goes on from one"
    assert scores.sinks is None
    return attend_shared(kernel, _rows(query), _rows(key), _rows(value), packing, scores.scale).unsqueeze(0)


class _FlashAttn4:
    """FlashAttention-4's two passes by themselves (4.0.0b19, interface.py): its public function gives no way to change lse between them."""

    def forward(
        self, rows: Any, ends: Any, longest: Any, scale: float, *, causal: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse, *_ = _flash_attn_4()._flash_attn_fwd(
            *rows,
            cu_seqlens_q=ends[0],
            cu_seqlens_k=ends[1],
            max_seqlen_q=longest[0],
            max_seqlen_k=longest[1],
            softmax_scale=scale,
            causal=causal,
            return_lse=True,
        )
        return out, lse

    def backward(
        self, above: torch.Tensor, rows: Any, out: Any, lse: Any, ends: Any, longest: Any, scale: float, *, causal: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _flash_attn_4()._flash_attn_bwd(
            *rows,
            out,
            above,
            lse,
            softmax_scale=scale,
            causal=causal,
            cu_seqlens_q=ends[0],
            cu_seqlens_k=ends[1],
            max_seqlen_q=longest[0],
            max_seqlen_k=longest[1],
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
        return found


class _Varlen:
    """torch's flash kernel."""

    def forward(
        self, rows: Any, ends: Any, longest: Any, scale: float, *, causal: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse, *_ = torch.ops.aten._flash_attention_forward(*rows, *ends, *longest, 0.0, causal, False, scale=scale)
        return out, lse

    def backward(
        self, above: torch.Tensor, rows: Any, out: Any, lse: Any, ends: Any, longest: Any, scale: float, *, causal: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        unused = torch.empty(0, device=above.device)
        # Without dropout the state of the random numbers is not read.
        state = torch.zeros(2, dtype=torch.uint64, device=above.device)
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten._flash_attention_backward(
            above, *rows, out, lse, *ends, *longest, 0.0, causal, state, unused, scale=scale
        )
        return found


@cache
def _flash_attn_4() -> ModuleType:
    """Import it with its cache of compiled kernels on (it is off by default); its key holds the package's own sources."""
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_DIR", str(cache_folder() / "flash-attn-4"))
    from flash_attn.cute import interface

    found: ModuleType = interface
    return found


@cache
def _grouped_heads() -> dict[str, Any]:
    """torch 2.13 wants to be told of grouped heads; 2.11 takes them untold and does not know the word."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


class _FlashWithSinks(torch.autograd.Function):
    """torch's flash kernel with attention sinks; the module's docstring derives it."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor,
        packing: Packing,
        scale: float,
        window: tuple[int, int],
    ) -> torch.Tensor:
        """`query` (tokens, heads, size), `key` and `value` (tokens, key-value heads, size), `sinks` (heads,)."""
        longest = packing.longest
        out, lse, rng, _, _ = torch.ops.aten._flash_attention_forward(
            query,
            key,
            value,
            packing.cu_seqlens,
            packing.cu_seqlens,
            longest,
            longest,
            0.0,
            True,
            False,
            scale=scale,
            window_size_left=window[0],
            window_size_right=window[1],
        )
        with_sink = torch.logaddexp(lse, sinks.float().unsqueeze(1))  # (heads, tokens)
        out = (out * torch.exp(lse - with_sink).transpose(0, 1).unsqueeze(-1)).to(out.dtype)
        ctx.save_for_backward(query, key, value, sinks, out, with_sink, rng)
        ctx.packing, ctx.scale, ctx.window = packing, scale, window
        result: torch.Tensor = out
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of query, key, value and sinks."""
        query, key, value, sinks, out, with_sink, rng = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        longest, unused = ctx.packing.longest, torch.empty(0, device=query.device)
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            gradient,
            query,
            key,
            value,
            out,
            with_sink,
            ctx.packing.cu_seqlens,
            ctx.packing.cu_seqlens,
            longest,
            longest,
            0.0,
            True,
            rng,
            unused,
            scale=ctx.scale,
            window_size_left=ctx.window[0],
            window_size_right=ctx.window[1],
        )
        d_sinks = None
        if ctx.needs_input_grad[3]:
            products = (gradient.float() * out.float()).sum(-1).transpose(0, 1)  # (heads, tokens)
            d_sinks = -(torch.exp(sinks.float().unsqueeze(1) - with_sink) * products).sum(1).to(sinks.dtype)
        return dq, dk, dv, d_sinks, None, None, None
