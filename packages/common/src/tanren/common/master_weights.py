"""float32 copies of weights that are trained in 16 bits: gradients are summed in them, and the optimizer updates them.

bfloat16 keeps 8 bits of a number: an update below 1/512 of a weight is rounded away, and AdamW's updates are as large as
the learning rate (Micikevicius et al. 2018, arXiv:1710.03740, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class MasterWeights:
    """What an optimizer updates in the place of trained weights; a weight in float32 stands for itself.

    As soon as the gradient of a 16-bit weight is complete in a backward pass, it is added to its copy's and given back.
    """

    def __init__(self, weights: Iterable[torch.nn.Parameter]) -> None:
        """Copy the weights that are kept in 16 bits, and wait for their gradients."""
        self._weights = list(weights)
        self._masters = [
            weight if weight.dtype == torch.float32 else torch.nn.Parameter(weight.detach().float())
            for weight in self._weights
        ]
        self._master_of = dict(zip(self._weights, self._masters, strict=True))
        self._handles = [weight.register_post_accumulate_grad_hook(self._take_gradient) for weight in self._copied()]

    def __enter__(self) -> MasterWeights:
        """Stand for the weights until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the weights keep their own gradients again."""
        for handle in self._handles:
            handle.remove()

    @property
    def masters(self) -> list[torch.nn.Parameter]:
        """What is updated, in the order of the weights."""
        return self._masters

    @property
    def copies(self) -> list[torch.nn.Parameter]:
        """Those of them that are copies."""
        return [self._master_of[weight] for weight in self._copied()]

    def of(self, weight: torch.nn.Parameter) -> torch.nn.Parameter:
        """Return what is updated in the place of a weight: its `.grad` holds the gradient."""
        return self._master_of[weight]

    def write_back(self) -> None:
        """Round the copies to the weights, and let go of their gradients: after every update."""
        with torch.no_grad():
            for weight in self._copied():
                weight.copy_(self._master_of[weight])
                self._master_of[weight].grad = None

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let a fresh optimizer of the weights update the copies, and keep them in its saved state."""
        for group in optimizer.param_groups:
            group["params"] = [self.of(weight) for weight in group["params"]]
        optimizer.register_step_post_hook(lambda *_: self.write_back())
        optimizer.register_state_dict_post_hook(self._save)
        optimizer.register_load_state_dict_pre_hook(self._load)

    def _copied(self) -> list[torch.nn.Parameter]:
        return [weight for weight in self._weights if self._master_of[weight] is not weight]

    def _take_gradient(self, weight: torch.Tensor) -> None:
        assert isinstance(weight, torch.nn.Parameter)
        assert weight.grad is not None, "the hook runs when there is one"
        master = self._master_of[weight]
        if master.grad is None:
            master.grad = weight.grad.float()
        else:
            master.grad.add_(weight.grad)
        weight.grad = None

    def _save(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        del optimizer
        return state | {"master_weights": [copy.detach() for copy in self.copies]}

    def _load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        del optimizer
        with torch.no_grad():
            for copy, saved in zip(self.copies, state["master_weights"], strict=True):
                copy.copy_(saved)
        self.write_back()
        return {name: value for name, value in state.items() if name != "master_weights"}
