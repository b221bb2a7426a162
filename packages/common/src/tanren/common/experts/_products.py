"""Products of rows that are sorted by expert with each expert's own matrix.

On a GPU torch's grouped product does all experts in one kernel. On a CPU torch goes from expert to expert itself; done
here, sums go into place without a pass over memory of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from tanren.common.experts import _stand_in


@dataclass(frozen=True)
class Groups:
    """Where each expert's rows end."""

    ends: torch.Tensor
    """(experts), int32: rows of this expert and those before it."""

    @cached_property
    def spans(self) -> list[tuple[int, int, int]]:
        """Expert, first row, and the row after its last, of experts with rows; on a CPU, where they can be read at once."""
        ends = self.ends.tolist()
        return [(e, first, last) for e, (first, last) in enumerate(zip([0, *ends], ends, strict=False)) if first < last]

    def expert_of_rows(self, rows: int) -> torch.Tensor:
        """Return the expert of each of so many rows."""
        return torch.searchsorted(self.ends, torch.arange(rows, device=self.ends.device), right=True)

    def empty(self) -> torch.Tensor:
        """Return which experts have no rows, (experts)."""
        return self.ends.diff(prepend=self.ends.new_zeros(1)) == 0


def by_expert(rows: torch.Tensor, matrices: torch.Tensor, groups: Groups) -> torch.Tensor:
    """Return each row times its expert's matrix: (rows, in) and (experts, in, out) give (rows, out)."""
    if rows.device.type == "cpu":
        out = rows.new_empty(len(rows), matrices.shape[2])
        for expert, first, last in groups.spans:
            torch.mm(rows[first:last], matrices[expert], out=out[first:last])
        return out
    if rows.device.type == "meta":
        return _stand_in.by_expert(rows, matrices)
    return torch.nn.functional.grouped_mm(rows, matrices, offs=groups.ends)


def add_by_expert(into: torch.Tensor, rows: torch.Tensor, matrices: torch.Tensor, groups: Groups) -> torch.Tensor:
    """Add each row, of few columns, times its expert's matrix to `into`, (rows, out), in place; return it."""
    if rows.is_cuda:
        from tanren.common.experts import _kernels

        return _kernels.add_by_expert(into, rows, matrices, groups.ends)
    if rows.is_meta:
        return _stand_in.add_by_expert(into, rows, matrices)
    for expert, first, last in groups.spans:
        into[first:last].addmm_(rows[first:last], matrices[expert])
    return into


def sums_by_expert(left: torch.Tensor, right: torch.Tensor, groups: Groups) -> torch.Tensor:
    """Return the sum over each expert's rows of their outer products: (rows, a) and (rows, b) give (experts, a, b)."""
    if left.device.type == "cpu":
        out = left.new_zeros(len(groups.ends), left.shape[1], right.shape[1])
        for expert, first, last in groups.spans:
            torch.mm(left[first:last].t(), right[first:last], out=out[expert])
        return out
    if left.device.type == "meta":
        return _stand_in.sums_by_expert(left, right, len(groups.ends))
    out = torch.nn.functional.grouped_mm(left.t(), right, offs=groups.ends)
    # A product over no rows at all is not said to be written.
    return out.masked_fill_(groups.empty()[:, None, None], 0)
