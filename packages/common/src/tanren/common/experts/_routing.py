"""What a router chose, sorted by expert."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from tanren.common.experts._products import Groups


@dataclass(frozen=True)
class Routing:
    """Rows, one for each token and expert of it, sorted by expert; rows = tokens * experts of a token."""

    order: torch.Tensor
    """(rows): the place of each among (tokens, experts of a token), flat."""
    places: torch.Tensor
    """(tokens, experts of a token): the row of each."""
    groups: Groups

    @staticmethod
    def of(index: torch.Tensor, experts: int) -> Routing:
        """Sort what the router chose, (tokens, experts of a token)."""
        chosen, order = index.reshape(-1).sort(stable=True)
        every = torch.arange(experts, device=index.device)
        ends = torch.searchsorted(chosen, every, right=True, out_int32=True)
        places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return Routing(order, places.view(index.shape), Groups(ends))

    @cached_property
    def tokens(self) -> torch.Tensor:
        """(rows): the token of each."""
        return self.order // self.places.shape[1]

    def sort(self, values: torch.Tensor) -> torch.Tensor:
        """Return what belongs to each row, (rows), of (tokens, experts of a token)."""
        return values.reshape(-1)[self.order]

    def unsort(self, values: torch.Tensor) -> torch.Tensor:
        """Return what belongs to each row, (rows), as (tokens, experts of a token)."""
        return values[self.places]


def sum_of_rows(rows: torch.Tensor, places: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return the sum, weighted or not, of the rows (all rows, width) at `places` (tokens, rows of a token): (tokens, width).

    One pass over memory, sums in float32.
    """
    return torch.nn.functional.embedding_bag(places, rows, mode="sum", per_sample_weights=weights)
