"""What the library's loop empties of gradients after each step."""

from __future__ import annotations

from typing import Any

import torch


class Listed:
    """A model whose weights are listed once: `zero_grad` of a model walks through thousands of modules while the GPU waits."""

    def __init__(self, model: torch.nn.Module) -> None:
        """List the weights; none is added while the loop runs."""
        self._model, self._weights = model, list(model.parameters())

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for weight in self._weights:
            weight.grad = None

    def __getattr__(self, name: str) -> Any:
        """Everything else is the model's."""
        return getattr(self._model, name)
