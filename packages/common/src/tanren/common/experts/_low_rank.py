"""An adapter on all experts of a layer: as PEFT keeps it, and as grouped products want it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

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
    """Without the rows of zeros that align the others."""
    scale: float

    @staticmethod
    def of(factors: Factors, experts: int, dtype: torch.dtype) -> LowRank:
        """Lay an adapter out."""
        rank = factors.a.shape[0] // experts
        down = factors.a.detach().view(experts, rank, -1).to(dtype)
        spread = factors.b.detach().view(-1, rank, experts).permute(2, 1, 0)
        up = (spread * factors.scale).to(dtype, memory_format=torch.contiguous_format)
        room = -rank % ALIGNED
        if room and not down.is_cpu:
            down, up = (torch.nn.functional.pad(one, (0, 0, 0, room)) for one in (down, up))
        return LowRank(down, up, rank, factors.scale)

    def gradients(self, d_a: torch.Tensor, d_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Lay the gradients of `a` and `b` out as `Factors`."""
        experts = len(d_a)
        d_a, d_b = (one[:, : self.rank].float() for one in (d_a, d_b))
        return d_a.reshape(experts * self.rank, -1), (d_b * self.scale).permute(2, 1, 0).reshape(
            -1, self.rank * experts
        )
