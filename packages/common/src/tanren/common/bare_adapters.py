"""LoRA's products alone, in the model's precision, where PEFT's layer computes nothing else either.

Its layer casts the input to float32, multiplies, scales and adds there, and casts back: a fifth of a training step of SmolLM2 on a CPU
(benchmarks/LOG.md). DoRA, biases, several adapters at once and other kinds of layers stay PEFT's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional


@contextmanager
def bare_adapters(model: Any) -> Iterator[None]:
    """Compute a model's adapters so, and give the layers back as they were; the adapter's weights must not change meanwhile."""
    before = {}
    for module in model.modules():
        name = _plain_adapter(module)
        if name is not None:
            before[module] = vars(module).get("forward")
            vars(module)["forward"] = _bare(module, name, frozen=model.dtype)
    try:
        yield
    finally:
        for module, forward in before.items():
            del module.forward
            if forward is not None:
                vars(module)["forward"] = forward


def make_bare(model: Any) -> list[torch.nn.Module]:
    """Compute a model's adapters so from now on; return the layers that were changed now.

    The adapter's weights keep their precision, and get their gradients in it.
    """
    found = []
    for module in model.modules():
        name = _plain_adapter(module)
        if name is not None and "forward" not in vars(module):
            vars(module)["forward"] = _bare(module, name)
            found.append(module)
    return found


def _plain_adapter(module: Any) -> str | None:
    """Return the adapter of a plain LoRA layer; None for any other module."""
    if not hasattr(module, "lora_A"):  # PEFT is not imported for a model without an adapter
        return None
    from peft.tuners.lora.layer import Linear

    active = [] if type(module) is not Linear else [one for one in module.active_adapters if one in module.lora_A]
    if len(active) != 1 or module.lora_variant:
        return None
    factors: Any = (module.lora_A[active[0]], module.lora_B[active[0]])
    return None if any(one.bias is not None for one in factors) else str(active[0])


def _bare(module: Any, name: str, frozen: torch.dtype | None = None) -> Callable[..., torch.Tensor]:
    """Return what the layer computes; `frozen`: the precision in which its factors are taken now, and for good."""
    base, scale, dropout = module.base_layer, float(module.scaling[name]), module.lora_dropout[name]
    factors = module.lora_A[name].weight, module.lora_B[name].weight
    if frozen is not None:
        factors = tuple(one.detach().to(frozen) for one in factors)
    down, up = factors

    def forward(x: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        if arguments or named or module.disable_adapters or module.merged or module.active_adapters != [name]:
            library: torch.Tensor = type(module).forward(module, x, *arguments, **named)
            return library
        result: torch.Tensor = base(x)
        low = functional.linear(dropout(x), down.to(x.dtype)).flatten(0, -2)
        rows = torch.addmm(result.flatten(0, -2), low, up.to(x.dtype).t(), alpha=scale)
        return rows.view_as(result)

    return forward
