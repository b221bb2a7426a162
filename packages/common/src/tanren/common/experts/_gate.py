"""From the products of gate and up to what goes into the last product, with the adapters on both sides in passing.

Here is what it means, with the library's own gate and torch's derivative of it. On CUDA gates that are known are one Triton
kernel each way (`_kernels`); on tensors without data they make what those make, so that the planner counts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.integrations import moe

from tanren.common.experts import _stand_in
from tanren.common.experts._low_rank import LowRank
from tanren.common.experts._products import Groups, add_by_expert, sums_by_expert

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True)
class Kind:
    """A gate that is known: gate * sigmoid(alpha * gate) * up."""

    alpha: float = 1.0
    limit: float | None = None
    """gpt-oss: gate is no higher, up no further from 0, and 1 is added to it."""
    interleaved: bool = False
    """Columns are gate, up, gate, up, ...; else all of gate, then all of up."""


@dataclass(frozen=True)
class Gate:
    """A layer's gate, with what is added before it."""

    apply: Any
    """The library's own: (rows, 2 * width) to (rows, width)."""
    kind: Kind | None
    bias: torch.Tensor | None
    """(experts, 2 * width)"""

    @staticmethod
    def of(module: Any) -> Gate:
        """Take it from the library's experts."""
        bias = module.gate_up_proj_bias.detach() if module.has_bias else None
        return Gate(module._apply_gate, _kind(module), bias)

    def forward(
        self, gate_up: torch.Tensor, low: torch.Tensor | None, first: LowRank | None, groups: Groups
    ) -> torch.Tensor:
        """Return what goes into the last product, (rows, width); `gate_up` (rows, 2 * width), `low` the first adapter's values.

        `gate_up` may be changed; as it is then, `backward` wants it.
        """
        if self.kind is not None and gate_up.is_cuda:
            b = None if first is None else first.b
            return _triton().gate(gate_up, low, b, self.bias, groups.ends, self.kind)  # type: ignore[no-any-return]
        if self.kind is not None and gate_up.is_meta:
            b = None if first is None else first.b
            return _stand_in.made([gate_up, low, b, self.bias], gate_up.shape[0], gate_up.shape[1] // 2)
        if first is not None:
            assert low is not None
            add_by_expert(gate_up, low, first.b, groups)
        if self.bias is not None:
            gate_up += self.bias[groups.expert_of_rows(len(gate_up))]
        gated: torch.Tensor = self.apply(gate_up)
        return gated

    def backward(
        self,
        d_gated: torch.Tensor,
        d_low: torch.Tensor | None,
        gate_up: torch.Tensor,
        low: torch.Tensor | None,
        share: torch.Tensor,
        adapters: tuple[LowRank | None, LowRank | None],
        groups: Groups,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return the gradients of `gate_up`, of the routing weights (rows), of the second adapter's A and of the first's B.

        `d_gated` (rows, width) is the gradient through the frozen weights, `d_low` (rows, rank) that of the second adapter's
        values, both but for the routing weights, `share` (rows).
        """
        first, second = adapters
        if self.kind is not None and (gate_up.is_cuda or gate_up.is_meta):
            a, b = (None if second is None else second.a), (None if first is None else first.b)
            if gate_up.is_meta:
                made = _stand_in.made([d_gated, d_low, a, gate_up, low, b, self.bias, share], *gate_up.shape)
                shapes = (None if one is None else one.shape for one in (share, a, b))
                sums = (None if one is None else share.new_empty(one, dtype=torch.float32) for one in shapes)
                return made, *sums  # type: ignore[return-value]
            arguments = (d_gated, d_low, a, gate_up, low, b, self.bias, share, groups.ends, self.kind)
            return _triton().gate_backward(*arguments)  # type: ignore[no-any-return]
        with torch.enable_grad():
            leaf = gate_up.detach().requires_grad_()
            made = self.apply(leaf)
        gated, column = made.detach(), share.unsqueeze(1)
        d_a = d_b = None
        if second is not None:
            assert d_low is not None
            add_by_expert(d_gated, d_low, second.a, groups)
            d_a = sums_by_expert(d_low * column, gated, groups)
        d_share = (d_gated * gated).sum(1)
        (d_gate_up,) = torch.autograd.grad(made, leaf, d_gated.mul_(column))
        if first is not None:
            assert low is not None
            d_b = sums_by_expert(low, d_gate_up, groups)
        return d_gate_up, d_share, d_a, d_b


def _kind(module: Any) -> Kind | None:
    if type(module).__name__ == "GptOssExperts":
        return Kind(module.alpha, module.limit, interleaved=True)
    default = type(module)._apply_gate is moe._default_apply_gate and module.is_concatenated
    return Kind() if default and type(module.act_fn).__name__ == "SiLUActivation" else None


def _triton() -> ModuleType:
    from tanren.common.experts import _kernels

    return _kernels
