"""A stand-in for the variable-length flash kernels: allocates and saves what they do, and computes nothing.

The real ones need the GPU that is planned for. While a trace runs, the stand-in takes the place of the kernel that the
run would use, through transformers' own attention interface.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tanren.common.attention import Choice
from tanren.common.attention.packed import registered_name
from tanren.common.plan._operations import register_flops


@torch.library.custom_op("tanren_plan::flash", mutates_args=())
def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pairs: float, kernel: str
) -> tuple[torch.Tensor, torch.Tensor]:
    raise NotImplementedError("a stand-in: it runs on tensors without data only")


@_flash.register_fake
def _flash_shapes(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pairs: float, kernel: str
) -> tuple[torch.Tensor, torch.Tensor]:
    del key, pairs, kernel
    out = torch.empty((*query.shape[:-1], value.shape[-1]), dtype=query.dtype, device=query.device)
    return out, torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)


@torch.library.custom_op("tanren_plan::flash_backward", mutates_args=())
def _flash_backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    logsumexp: torch.Tensor,
    pairs: float,
    kernel: str,
) -> list[torch.Tensor]:
    raise NotImplementedError("a stand-in: it runs on tensors without data only")


@_flash_backward.register_fake
def _flash_backward_shapes(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    logsumexp: torch.Tensor,
    pairs: float,
    kernel: str,
) -> list[torch.Tensor]:
    """Return the three gradients, and the buffers that the kernel needs beside them for as long as it runs.

    All sum the query's gradient in float32. Where several query heads share a key head, FlashAttention-4 sums the
    others' in float32 too (flash_attn/cute/interface.py: dq_accum, dk_accum, dv_accum, dpsum, lse_log2); the kernel of
    FlashAttention-2 and torch makes them for each query head (aten/src/ATen/native/transformers/cuda/flash_attn/
    flash_api.cpp: dq_accum, dk_expanded, dv_expanded, softmax_d).
    """
    del gradient, out, pairs
    buffers = [torch.empty(query.shape, dtype=torch.float32, device=query.device), torch.empty_like(logsumexp)]
    if kernel == "flash_attention_4":
        buffers.append(torch.empty_like(logsumexp))
    if query.shape[-2] != key.shape[-2]:
        if kernel == "flash_attention_4":
            buffers += [torch.empty(one.shape, dtype=torch.float32, device=one.device) for one in (key, value)]
        else:
            buffers += [torch.empty_like(query) for _ in range(2)]
    return [torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), *buffers]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, key, value, ctx.pairs, ctx.kernel = inputs
    ctx.save_for_backward(query, key, value, *output)


def _gradients(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
    query, key, value = _flash_backward(gradient, *ctx.saved_tensors, ctx.pairs, ctx.kernel)[:3]
    return query, key, value, None, None


_flash.register_autograd(_gradients, setup_context=_keep)

# Two products of (pairs, head size) in the forward pass, five in the backward pass, which forms the scores again.
register_flops(
    torch.ops.tanren_plan.flash.default, lambda args, _: 4.0 * args[3] * args[0].shape[-2] * args[0].shape[-1]
)
register_flops(
    torch.ops.tanren_plan.flash_backward.default, lambda args, _: 10.0 * args[6] * args[1].shape[-2] * args[1].shape[-1]
)


def attended_pairs(lengths: Sequence[int], window: int | None) -> float:
    """Return how many (query, key) pairs causal attention within samples of these lengths has, `window` keys back at most."""
    total = 0.0
    for length in lengths:
        reach = min(length, window or length)
        total += reach * (reach + 1) / 2 + (length - reach) * reach
    return total


def _families(lengths: Sequence[int], follows: Sequence[bool], window: int | None) -> tuple[tuple[int, float], ...]:
    """Return tokens and pairs of each sample with those that go on from it, which attend to all of it."""
    found: list[tuple[int, float]] = []
    first = 0
    for length, goes_on in zip(lengths, follows or [False] * len(lengths), strict=True):
        pairs = attended_pairs([length], window)
        if goes_on:
            tokens, before = found[-1]
            found[-1] = (tokens + length, before + pairs + length * min(first, window or first))
        else:
            found.append((length, pairs))
            first = length
    return tuple(found)


@contextmanager
def attention_stands_in(choice: Choice, lengths: Sequence[int], follows: Sequence[bool] = ()) -> Iterator[None]:
    """Let a stand-in take the place of the chosen attention for packed samples of these lengths, in tokens.

    What is written out (eager, and sinks or soft-capped scores one sample after the other) needs none: it is made of
    ordinary operations. A model that keeps its own attention, one sample a pass, has SDPA or eager.
    """
    if choice.kernel == "eager":
        with _autocast_for_meta():
            yield
        return
    name = registered_name(choice.kernel) if choice.packs else "sdpa"
    real = ALL_ATTENTION_FUNCTIONS[name]
    # The instances' own entries go before the registered ones, and leave them as they were when they are taken out.
    ALL_ATTENTION_FUNCTIONS[name] = (
        _one_by_one(lengths, follows, real)
        if choice.kernel in ("sdpa", "own")
        else _packed(choice.kernel, lengths, follows)
    )
    try:
        with _autocast_for_meta():
            yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]


def _packed(kernel: str, lengths: Sequence[int], follows: Sequence[bool]) -> Any:
    """One call for all samples; key and value heads are not repeated."""

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **settings: Any,
    ) -> tuple[torch.Tensor, None]:
        del module, attention_mask
        pairs = sum(found for _, found in _families(lengths, follows, settings.get("sliding_window")))
        out, lse = _flash(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), pairs, kernel)
        if kernel == "flash_attention_4" and (sinks := settings.get("s_aux")) is not None:
            out = (out * torch.sigmoid(lse - sinks.float()).unsqueeze(-1)).to(out.dtype)
        return out, None

    return attend


def _one_by_one(lengths: Sequence[int], follows: Sequence[bool], real: Any) -> Any:
    """One SDPA call a sample; on a GPU with key and value heads repeated, as the kernel does it."""

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **settings: Any,
    ) -> tuple[torch.Tensor, None]:
        if settings.get("s_aux") is not None or settings.get("softcap"):
            written_out: tuple[torch.Tensor, None] = real(module, query, key, value, attention_mask, **settings)
            return written_out
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        families = _families(lengths, follows, settings.get("sliding_window"))
        sizes = [tokens for tokens, _ in families]
        parts = [
            _flash(*(tensor.transpose(1, 2) for tensor in part), pairs, "sdpa")[0]
            for (_, pairs), *part in zip(
                families, *(tensor.split(sizes, dim=2) for tensor in (query, key, value)), strict=True
            )
        ]
        return torch.cat(parts, dim=1), None

    return attend


@contextmanager
def _autocast_for_meta() -> Iterator[None]:
    """Let autocast be turned off around tensors without data, where it is off anyway: torch raises for their device.

    PEFT does so around the products of adapters on fused experts.
    """
    real = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == "meta" else real(device_type, *args, **kwargs)

    torch.autocast = autocast  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        torch.autocast = real  # type: ignore[misc]
