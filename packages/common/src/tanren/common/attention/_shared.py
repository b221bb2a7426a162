"""Attention where samples go on from another one, by the flash kernels: what is shared is read once.

A token of such a sample attends to its own sample causally, and to all of the one before. The kernels do each by itself and
give the logarithm of the sum of weights with it (lse), so both are put together as parts of one softmax:

    lse = log(exp(lse_own) + exp(lse_before))
    out = out_own exp(lse_own - lse) + out_before exp(lse_before - lse)

In the backward pass a kernel makes its weights anew from the scores and lse, and takes dout . out off. Handed the lse and the
output of the whole softmax, each gives exactly its part of the gradients, and the parts are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from tanren.common.attention._packing import Packing, Shared


class Kernel(Protocol):
    """One pass of a flash kernel over samples of one row, each with keys of its own. Scores are not changed otherwise."""

    def forward(
        self,
        rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        ends: tuple[torch.Tensor, torch.Tensor],
        longest: tuple[int, int],
        scale: float,
        *,
        causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return output, (tokens, heads, size), and lse, float32, (heads, tokens)."""

    def backward(
        self,
        above: torch.Tensor,
        rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        out: torch.Tensor,
        lse: torch.Tensor,
        ends: tuple[torch.Tensor, torch.Tensor],
        longest: tuple[int, int],
        scale: float,
        *,
        causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of query, key and value."""


def attend_shared(
    kernel: Kernel, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, scale: float
) -> torch.Tensor:
    """Attend; `query` (tokens, heads, size), `key` and `value` (tokens, key-value heads, size), like the result."""
    found: torch.Tensor = _Attend.apply(query, key, value, kernel, packing, scale)  # type: ignore[no-untyped-call]
    return found


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kernel: Kernel,
        packing: Packing,
        scale: float,
    ) -> torch.Tensor:
        shared, ends, longest = _of(packing)
        out, lse = kernel.forward((query, key, value), (ends, ends), (longest, longest), scale, causal=True)
        rows, across_ends, across_longest = _across(query, key, value, shared)
        before, lse_before = kernel.forward(rows, across_ends, across_longest, scale, causal=False)
        lse = lse.clone()
        place = 0
        for part in shared.after:
            here = slice(place, place + part.stop - part.start)
            place = here.stop
            own, other = lse[:, part], lse_before[:, here]
            share = torch.sigmoid(own - other).t().unsqueeze(-1)  # of the sample itself in its softmax
            out[part] = torch.lerp(before[here].float(), out[part].float(), share)
            lse[:, part] = torch.logaddexp(own, other)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.kernel, ctx.packing, ctx.scale = kernel, packing, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        above, kernel, scale = gradients[0].contiguous(), ctx.kernel, ctx.scale
        shared, ends, longest = _of(ctx.packing)
        found = kernel.backward(
            above, (query, key, value), out, lse, (ends, ends), (longest, longest), scale, causal=True
        )
        rows, across_ends, across_longest = _across(query, key, value, shared)
        across = kernel.backward(
            _joined(above, shared.after),
            rows,
            _joined(out, shared.after),
            torch.cat([lse[:, part] for part in shared.after], dim=1),
            across_ends,
            across_longest,
            scale,
            causal=False,
        )
        for whole, parts, more in zip(found, (shared.after, shared.before, shared.before), across, strict=True):
            place = 0
            for part in parts:
                size = part.stop - part.start
                whole[part] += more[place : place + size]
                place += size
        return *found, None, None, None


def _of(packing: Packing) -> tuple[Shared, torch.Tensor, int]:
    assert packing.shared is not None
    return packing.shared, packing.cu_seqlens, packing.longest


def _across(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, shared: Shared
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor], tuple[int, int]]:
    """Return queries of the samples that go on, keys and values of those before them, and where each ends."""
    rows = _joined(query, shared.after), _joined(key, shared.before), _joined(value, shared.before)
    return rows, (shared.cu_after, shared.cu_before), (shared.longest_after, shared.longest_before)


def _joined(rows: torch.Tensor, parts: Sequence[slice]) -> torch.Tensor:
    """Return parts of rows behind one another; one part without a copy."""
    return rows[parts[0]] if len(parts) == 1 else torch.cat([rows[part] for part in parts])
