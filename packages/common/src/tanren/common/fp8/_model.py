"""A loaded model's frozen linear layers put into 8 bits, one after the other, on the device where they will be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tanren.common.errors import UserError
from tanren.common.fp8._arithmetic import ALIGNED
from tanren.common.fp8._cost import Batch, Cost, compare, read
from tanren.common.fp8._linear import Fp8Linear
from tanren.common.fp8._proof import prove_products

if TYPE_CHECKING:
    from tanren.common.models.device import DevicePlan

LEAST_CAPABILITY = (8, 9)
"""Ada and Hopper have matrix units with 8-bit floating-point inputs; Ampere has none."""
_ROUTERS = ("gate", "router")
"""Last names of layers that choose experts: a rounded choice is another expert."""


@dataclass(frozen=True)
class Quantised:
    """What was put into 8 bits."""

    layers: int
    left: int
    """Linear layers that stay: routers, and widths that the matrix units do not take."""
    off: float
    """Of the products from those of unrounded inputs, relatively: the largest of all forms of layers."""
    cost: Cost | None
    """None where no batch was given."""


def require_fp8(capability: tuple[int, int] | None, name: str, dtype: torch.dtype) -> None:
    """Raise UserError where a GPU cannot multiply in 8-bit floating point; `capability` None: a CPU, which computes the same slowly."""
    if capability is None:
        return
    if capability < LEAST_CAPABILITY:
        raise UserError(
            f"model.quantisation = fp8 needs a GPU of compute capability {'.'.join(map(str, LEAST_CAPABILITY))} or newer, and {name} has "
            f"{'.'.join(map(str, capability))}; take nf4, which needs less memory and runs anywhere, or none"
        )
    if dtype != torch.bfloat16:
        raise UserError(
            "model.quantisation = fp8 computes in bfloat16 on a GPU, and model.dtype = float32 was asked for; leave one of the two out"
        )


def require_fp8_here(device: DevicePlan) -> None:
    """Raise UserError where the planned device cannot have fp8."""
    here = device.device == "cuda"
    require_fp8(
        torch.cuda.get_device_capability() if here else None,
        torch.cuda.get_device_name() if here else "the CPU",
        device.torch_dtype,
    )


def quantised_layers(model: Any) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield the layers that are put into 8 bits, each with the module that holds it and its name there."""
    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not head and name not in _ROUTERS and _is_aligned(child):
                yield module, name, child


def quantise_model(model: Any, device: str, batch: Batch | None = None) -> Quantised:
    """Put the frozen linear layers of a model into 8 bits and the model on its device; measure on `batch` what it costs.

    Layer by layer, also while it is measured: each is moved for its product, and rounded after it. So a device holds the
    rounded model and one layer more. Raises MachineError where the products turn out wrong on this device.
    """
    places = {child: (module, name) for module, name, child in quantised_layers(model)}
    for module in model.modules():
        if module not in places:
            _move(module, device)

    def come(layer: nn.Module, _: Any) -> None:
        _move(layer, device)

    def go(layer: Any, *_: Any) -> None:
        module, name = places.pop(layer)
        setattr(module, name, Fp8Linear(layer))

    number, before = len(places), None
    if batch is not None:
        for layer in places:
            layer.register_forward_pre_hook(come)
            layer.register_forward_hook(go)
        before = read(model, batch, device)
    for layer in list(places):  # experts that no token reached, and all where nothing is measured
        come(layer, ())
        go(layer)
    left = sum(type(module) is nn.Linear for module in model.modules() if module is not model.get_output_embeddings())
    cost = None if before is None or batch is None else compare(before, read(model, batch, device))
    made = [module for module in model.modules() if isinstance(module, Fp8Linear)]
    return Quantised(number, left, prove_products(made) if made else 0.0, cost)


def _is_aligned(layer: nn.Linear) -> bool:
    return layer.in_features % ALIGNED == 0 and layer.out_features % ALIGNED == 0


def _move(module: nn.Module, device: str) -> None:
    """Move what a module itself holds; tied weights stay tied."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))
