"""Frozen projections of one input with their adapters, laid out so that a layer multiplies by all of them at once.

PEFT keeps an adapter as two small layers beside each projection, in float32, and multiplies the input by each. Here the
adapters' weights stay PEFT's own parameters, which the optimizer changes and checkpoints hold. For the products they are
copied once a pass, in the model's precision, into two blocks for each input: all A one below the other, all B on the
diagonal of a matrix. So one small product makes the low-rank values of all projections, and one their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch

from tanren.common.fused._frozen import Scratch, frozen_weights, joined
from tanren.common.fused._operations import Low

ALIGNED = 16
"""Columns: rows of results begin at multiples of 32 bytes, so that kernels may read 16 bytes at once (Triton asks for divisors of 16)."""


@dataclass(frozen=True)
class Adapter:
    """The low-rank adapter of one projection: its result gains scale * x @ A.T @ B.T."""

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scale: float


class Projections:
    """Projections of one input, (out, in) each: their frozen weights as one, and their adapters.

    Results and low-rank values lie in the same rows, (tokens, out + room), and so do their gradients. Of weights in 16 or
    32 bits all A stand below W, in one matrix: one product makes both, and one takes the gradients of both to the input.
    """

    def __init__(self, modules: Sequence[Any], scratch: Scratch | None = None) -> None:
        """Take the frozen weights of modules of one input; what is made whole for a product lies in `scratch`."""
        bases = [getattr(module, "base_layer", module) for module in modules]
        self.adapters = [_adapter(module) for module in modules]
        self.ranks = tuple(0 if one is None else len(one.a) for one in self.adapters)
        self.scales = {one.scale for one in self.adapters if one is not None}
        self.widths = tuple(int(base.out_features) for base in bases)
        self.room = -(-sum(self.ranks) // ALIGNED) * ALIGNED
        self.frozen = frozen_weights(bases, self.room, scratch or Scratch())
        self.out = self.frozen.out
        biases = [base.bias for base in bases]
        self.bias = joined(biases, self.room) if biases[0] is not None else None
        self.up: torch.Tensor | None = None
        """B of all adapters on the diagonal, (out, room), and zeros: a `Stack` gives it its place."""

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """A and B of each adapter, in order."""
        return [parameter for one in self.adapters if one is not None for parameter in (one.a, one.b)]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weight.T + bias, the frozen part, and behind it the adapters' products with A: (tokens, out + room)."""
        return self.frozen.product(x, self.bias)

    def parts(self, made: torch.Tensor) -> tuple[torch.Tensor, Low]:
        """Take apart what a call returned: the frozen part, (tokens, out), and what the adapters add to it."""
        return made[:, : self.out], self.low(made[:, self.out :])

    def low(self, values: torch.Tensor | None) -> Low:
        """Return what the adapters add, from their products with A."""
        return Low(values if self.room else None, self.up, self.ranks, self.widths)

    def complete(self, d_made: torch.Tensor) -> torch.Tensor:
        """Put the gradient of the low-rank values behind that of the results, in place; `d_made` (tokens, out + room)."""
        if self.up is not None:
            torch.mm(d_made[:, : self.out], self.up, out=d_made[:, self.out :])
        return d_made

    def gradient_of_input(self, d_made: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the input, through the frozen weights and the adapters; `d_made` complete."""
        return self.frozen.gradient(d_made)

    def gradients_of_b(self, d_made: torch.Tensor, values: torch.Tensor | None) -> list[torch.Tensor | None]:
        """Return the gradient of each B, float32 (out, rank), from the products with A."""
        if values is None or not self.room:
            return [None] * len(self.ranks)
        return self.low(values).blocks(product32(d_made[:, : self.out].t(), values))

    def gradients(
        self, x: torch.Tensor, d_made: torch.Tensor, d_bs: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor | None]:
        """Return the gradients of `parameters` from the input, the complete gradient, and those of each B."""
        return self.scaled(product32(d_made[:, self.out :].t(), x), d_bs) if self.room else []

    def scaled(self, d_down: torch.Tensor | None, d_bs: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Return the gradients of `parameters` from that of all A, but for the scale, and those of each B."""
        if d_down is None:
            return []
        if len(self.scales) == 1:
            d_down.mul_(next(iter(self.scales)))
        found: list[torch.Tensor | None] = []
        for one, d_a, d_b in zip(self.adapters, d_down[: sum(self.ranks)].split(self.ranks), d_bs, strict=True):
            if one is None or d_b is None:
                continue
            scaled = d_a if len(self.scales) == 1 else d_a * one.scale
            found += [scaled.to(one.a.dtype), d_b.to(one.b.dtype)]
        return found


class Stack:
    """The adapters of projections of the same form, one from each layer: copied for all layers at once."""

    def __init__(self, groups: Sequence[Projections]) -> None:
        """Lay out the blocks that the products use; their values come with `refresh`."""
        self._groups, first = groups, groups[0]
        self._groups, first = groups, groups[0]
        self._up = first.frozen.zeros(len(groups), first.out, first.room)
        if len(first.widths) == 1:  # `add` reads whole columns, the kernels of several projections whole rows
            self._up = self._up.view(len(groups), first.room, first.out).transpose(1, 2)
        for group, up in zip(groups, self._up, strict=True):
            group.up = up
        self._columns = list(pairwise(accumulate(first.widths, initial=0)))
        self._rows = list(pairwise(accumulate(first.ranks, initial=0)))
        self._joint: list[torch.Tensor | None] = [None] * len(first.ranks)

    def refresh(self) -> None:
        """Copy the adapters' weights, which the optimizer may have changed."""
        for index, one in enumerate(self._groups[0].adapters):
            if one is None:
                continue
            (begin, end), (left, right) = self._rows[index], self._columns[index]
            adapters = [one for group in self._groups if (one := group.adapters[index]) is not None]
            downs = [group.frozen.low_rows[begin:end] for group in self._groups]
            torch._foreach_copy_(downs, [adapter.a for adapter in adapters])
            if one.scale != 1:
                torch._foreach_mul_(downs, one.scale)
            self._up[:, left:right, begin:end].copy_(self._joined(index, adapters))

    def _joined(self, index: int, adapters: Sequence[Adapter]) -> torch.Tensor:
        """Return B of all layers as one tensor, (layers, out, rank), of which the parameters are views.

        What loads a checkpoint may give a parameter other memory: then they are joined again.
        """
        joint = self._joint[index]
        if joint is None or not all(
            one.b.data_ptr() == part.data_ptr() for one, part in zip(adapters, joint, strict=True)
        ):
            joint = torch.stack([one.b.detach() for one in adapters])
            for one, part in zip(adapters, joint, strict=True):
                one.b.data = part
            self._joint[index] = joint
        return joint


def stacks(groups: Sequence[Projections]) -> list[Stack]:
    """Return the stacks of all projections with adapters: one for each form."""
    forms: dict[Any, list[Projections]] = {}
    for group in groups:
        if any(group.ranks):
            scales = tuple(None if one is None else one.scale for one in group.adapters)
            forms.setdefault((group.widths, group.ranks, scales, group.frozen.width), []).append(group)
    return [Stack(alike) for alike in forms.values()]


def product32(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return a product in float32 of matrices in the model's precision."""
    if first.is_cuda and first.dtype != torch.float32:
        return torch.mm(first, second, out_dtype=torch.float32)
    return torch.mm(first.float(), second.float())


def _adapter(module: Any) -> Adapter | None:
    if not hasattr(module, "lora_A") or not module.lora_A:
        return None
    scale = float(module.scaling["default"])
    return Adapter(module.lora_A["default"].weight, module.lora_B["default"].weight, scale)
