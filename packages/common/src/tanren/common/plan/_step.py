"""One training step on tensors without data: what lives when, and what has to be computed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tanren.common.adapted import base_of
from tanren.common.errors import UserError
from tanren.common.fused import route_of
from tanren.common.master_weights import MasterWeights
from tanren.common.plan._account import Account
from tanren.common.plan._categories import ACTIVATIONS, BACKWARD, GRADIENTS, LOSS, OPTIMIZER, RESIDENT, TRAINED, WEIGHTS
from tanren.common.plan._operations import Operation

Loss = Callable[[Any, torch.device], torch.Tensor]
"""The trainer's own loss of one micro-batch: model and device in, a scalar out."""


class NotTraceableError(UserError):
    """A model's training step does not run on tensors without data."""


@dataclass(frozen=True)
class StepTrace:
    """What a micro-batch of a step needs."""

    parameters: int
    trained: int
    peak: Mapping[str, int]
    """Bytes by category when the most memory is in use."""
    largest: int
    """Bytes of the largest tensor that the step makes."""
    resident: int
    """Bytes of weights, adapter and optimizer, which are there between the steps too."""
    operations: Mapping[Operation, int]
    """Of one micro-batch: forward and backward pass."""
    update: Mapping[Operation, int]
    """Of the optimizer's update."""
    seconds: float
    """That the trace took."""

    @property
    def peak_bytes(self) -> int:
        """All categories together."""
        return sum(self.peak.values())

    @property
    def flops(self) -> float:
        """Floating-point operations in matrix products, of one micro-batch."""
        return sum(operation.flops * number for operation, number in self.operations.items())


def trace_step(model: torch.nn.Module, loss: Loss, *, gradients: bool) -> StepTrace:
    """Trace the forward and backward pass of a model that is on the meta device.

    `gradients`: those of an earlier micro-batch of the step are there already.
    Raises NotTraceableError where the step needs data.

    Optimizer: AdamW with two states in float32 and a float32 count of steps, fused, so without temporaries (transformers'
    default on CUDA, torch/optim/adamw.py); weights in 16 bits have a float32 copy that it updates (MasterWeights).
    """
    begun = time.perf_counter()
    account = Account()
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    account.hold((tensor for tensor in parameters if not tensor.requires_grad), WEIGHTS)
    account.hold(model.buffers(), WEIGHTS)
    account.hold(trained, TRAINED)
    with MasterWeights(trained) as held:
        states = [torch.empty_like(master) for master in held.masters for _ in range(2)]
        counts = [torch.empty((), device=master.device) for master in held.masters]
        account.hold([*held.copies, *states, *counts], OPTIMIZER)

        def gradient_is_there(weight: Any) -> None:
            gradient = held.of(weight).grad
            assert gradient is not None, "the hook runs when there is one"
            account.hold([gradient], GRADIENTS)

        handles = [weight.register_post_accumulate_grad_hook(gradient_is_there) for weight in trained]
        handles.append(_loss_begins(model, account))
        if gradients:
            for master in held.masters:
                master.grad = torch.empty_like(master)
            account.hold((master.grad for master in held.masters if master.grad is not None), GRADIENTS)
        try:
            _micro_batch(model, loss, account)
        finally:
            for handle in handles:
                handle.remove()
        resident = sum(account.live[category] for category in RESIDENT)
        model.zero_grad(set_to_none=True)
        # Of float32: reads weight, gradient, 2 states, and writes all but the gradient; a copy is read and rounded to its weight.
        update = Counter(Operation(0.0, 28 * master.numel(), "") for master in held.masters)
        update.update(Operation(0.0, 6 * copy.numel(), "") for copy in held.copies)
    return StepTrace(
        parameters=sum(parameter.numel() for parameter in parameters),
        trained=sum(parameter.numel() for parameter in trained),
        peak=account.peak,
        largest=account.largest,
        resident=resident,
        operations=account.operations,
        update=update,
        seconds=time.perf_counter() - begun,
    )


def _loss_begins(model: Any, account: Account) -> Any:
    """From the output head on, what is made belongs to the logits and the loss; where it is not called itself, from the last norm on."""

    def begin(*_: Any) -> None:
        account.category = LOSS

    if route_of(model).in_parts:
        return base_of(model).base_model.norm.register_forward_hook(begin)
    return model.get_output_embeddings().register_forward_pre_hook(begin)


def _micro_batch(model: torch.nn.Module, loss: Loss, account: Account) -> None:
    account.category = ACTIVATIONS
    try:
        with account:
            value = loss(model, torch.device("meta"))
            account.category = BACKWARD
            value.backward()
    except (RuntimeError, NotImplementedError, AttributeError, TypeError, ValueError) as error:
        fault = f"{type(error).__name__}: {str(error).strip().split(chr(10), 1)[0]}"
        raise NotTraceableError(
            f"this model cannot be planned: its training step fails on tensors without data: {fault}"
        ) from error
