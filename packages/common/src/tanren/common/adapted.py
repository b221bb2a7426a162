"""A model with an adapter: what is below it, and the adapter with values that count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def base_of(model: Any) -> Any:
    """Return the model below an adapter, or the model itself where it has none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def adapters_at_work(model: Any) -> Iterator[list[torch.nn.Parameter]]:
    """Give the adapters values for which every formula counts (a fresh B is 0), and their own back; without dropout meanwhile."""
    import torch

    training = model.training
    model.eval()
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in adapters]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    try:
        yield adapters
    finally:
        with torch.no_grad():
            for parameter, value in zip(adapters, before, strict=True):
                parameter.copy_(value)
        model.train(training)
