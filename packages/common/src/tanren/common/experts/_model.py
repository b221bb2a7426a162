"""Which parts of a model are fused experts, and whether their products can be grouped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import layer

from tanren.common.adapted import base_of
from tanren.common.experts._adapter import PRODUCTS, ParamWrapper


class NotGroupableError(Exception):
    """Why a model's experts keep the library's own way."""


def is_fused(module: Any) -> bool:
    """Whether a module is a layer's experts, in one tensor for each product, computed through the library's registry."""
    return hasattr(module, "has_gate") and hasattr(module, "is_transposed") and hasattr(module, "_apply_gate")


def outermost(model: Any) -> Iterator[torch.nn.Module]:
    """Give the experts of each layer, with the adapters that are wrapped around them."""
    for parent in base_of(model).modules():
        if isinstance(parent, layer.ParamWrapper):
            continue
        yield from (child for child in parent.children() if is_fused(within(child)))


def within(module: Any) -> Any:
    """Return what adapters are wrapped around, or the module itself."""
    return module.get_base_layer() if isinstance(module, layer.ParamWrapper) else module


def wrappers(module: Any) -> list[Any]:
    """Return the adapters that are wrapped around experts, the outermost first."""
    found = []
    while isinstance(module, layer.ParamWrapper):
        found.append(module)
        module = module.base_layer
    return found


def check(model: Any) -> None:
    """Raise NotGroupableError where a model's experts are not what is grouped here."""
    for module in outermost(model):
        experts = within(module)
        kind = type(experts).__name__
        if not experts.has_gate or any(getattr(experts, name).dim() != 3 for name in PRODUCTS):
            raise NotGroupableError(f"{kind} is not a gated MLP")
        weights = [weight for name, weight in experts.named_parameters() if ".lora_" not in name]
        if any(weight.requires_grad for weight in weights):
            raise NotGroupableError("the experts' own weights are trained")
        if len({weight.dtype for weight in weights}) > 1 or weights[0].dtype not in (torch.float32, torch.bfloat16):
            raise NotGroupableError(f"its experts are kept in {weights[0].dtype}".replace("torch.", ""))
        for wrapper in wrappers(module):
            if not isinstance(wrapper, ParamWrapper):
                raise NotGroupableError("its adapters on experts were not attached here")
            if wrapper.parameter_name not in PRODUCTS:
                raise NotGroupableError(f"an adapter is on {wrapper.parameter_name}")
            if list(wrapper.lora_A) != ["default"]:
                raise NotGroupableError("its experts have more than one adapter")
