"""PEFT's adapter on a fused tensor of experts, which may hand its two matrices on instead of merging them.

PEFT's own way adds scale * B A to the weights of all experts in every forward pass, in the weights' precision: it takes a
second copy of them, and in bfloat16 it rounds small updates away.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import layer

from tanren.common.experts._low_rank import Factors

GROUPED = "tanren_grouped"
"""The name under which transformers finds the experts' function (`_forward`)."""
PRODUCTS = ("gate_up_proj", "down_proj")
"""The library's names of the weights of gated experts, (experts, in, out) or (experts, out, in)."""


class ParamWrapper(layer.ParamWrapper):
    """PEFT's wrapper: the same parameters, files and merging; only the forward pass has a second way.

    It has its base's name because PEFT, putting one on another where a module has two such tensors, asks for that name.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the experts with the adapter: merged, as PEFT does it, or beside the weights where they are grouped."""
        experts: Any = self.get_base_layer()
        active = [name for name in self.active_adapters if name in self.lora_A]
        grouped = experts.config._experts_implementation == GROUPED
        if not grouped or self.disable_adapters or self.merged or len(active) != 1:
            merged: torch.Tensor = super().forward(x, *args, **kwargs)
            return merged
        self._check_forward_args(x, *args, **kwargs)  # type: ignore[no-untyped-call]
        name = active[0]
        a, b = (part.get_parameter(f"{name}.weight") for part in (self.lora_A, self.lora_B))
        mine = Factors(a, b, self.scaling[name])
        adapters = {**kwargs.pop("adapters", {}), self.parameter_name: mine}
        result: torch.Tensor = self.base_layer(x, *args, adapters=adapters, **kwargs)
        return result
