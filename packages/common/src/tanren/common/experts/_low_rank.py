"""An adapter on all experts of a layer: as PEFT keeps it, and as grouped products want it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tanren.common.experts._products import Groups, add_by_expert, by_expert, sums_by_expert

ALIGNED = 8
"""Of a rank: torch's grouped product of 16-bit numbers wants rows that are multiples of 16 bytes apart."""


@dataclass(frozen=True)
class Factors:
    """An adapter as PEFT keeps it."""

    a: torch.Tensor
    """(experts * rank, in): the rank rows of one expert after those of another."""
    b: torch.Tensor
    """(out, rank * experts): a rank's column of all experts, then the next rank's."""
    scale: float


@dataclass(frozen=True)
class LowRank:
    """An adapter's matrices in the weights' precision, laid out for grouped products."""

    a: torch.Tensor
    """(experts, rank, in)"""
    b: torch.Tensor
    """(experts, rank, out), scaled."""
    rank: int
    scale: float

    @staticmethod
    def of(a: torch.Tensor, b: torch.Tensor, scale: float, experts: int, dtype: torch.dtype) -> LowRank:
        """Take PEFT's two parameters (`Factors`)."""
        rank = a.shape[0] // experts
        down = a.detach().view(experts, rank, -1).to(dtype)
        up = (b.detach().view(-1, rank, experts).permute(2, 1, 0) * scale).to(
            dtype, memory_format=torch.contiguous_format
        )
        room = -rank % ALIGNED
        if room and a.device.type != "cpu":
            down, up = (torch.nn.functional.pad(one, (0, 0, 0, room)) for one in (down, up))
        return LowRank(down, up, rank, scale)

    def add(self, into: torch.Tensor, rows: torch.Tensor, groups: Groups) -> torch.Tensor:
        """Add the adapter's part to the products of the frozen weights, in place; return its low-rank values, (rows, rank)."""
        low = by_expert(rows, self.a.transpose(1, 2), groups)
        add_by_expert(into, low, self.b, groups)
        return low

    def backward(
        self,
        d_out: torch.Tensor,
        d_in: torch.Tensor,
        rows: torch.Tensor,
        low: torch.Tensor,
        groups: Groups,
        share: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the adapter's part to the gradient of its rows, in place; return its own gradients, laid out as `Factors`.

        `share` (rows, 1): what `d_out` and `d_in` are still to be multiplied by.
        """
        d_low = by_expert(d_out, self.b.transpose(1, 2), groups)
        add_by_expert(d_in, d_low, self.a, groups)
        if share is not None:
            d_low, low = d_low * share, low * share
        d_a, d_b = sums_by_expert(d_low, rows, groups), sums_by_expert(low, d_out, groups)
        d_a, d_b = (one[:, : self.rank].float() for one in (d_a, d_b))
        experts = len(d_a)
        return d_a.reshape(experts * self.rank, -1), (d_b * self.scale).permute(2, 1, 0).reshape(
            -1, self.rank * experts
        )
