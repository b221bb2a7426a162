"""Cross entropy through the output head without ever holding all logits: a few thousand tokens at a time."""

from __future__ import annotations

from typing import Any

import torch

from tanren.common.fused._operations import cross_entropy_
from tanren.common.fused._projections import product32

LOGITS = 2**29
"""Elements of the logits that are held at a time (1 GiB in bfloat16): the products are large enough to run at full speed."""


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients are made in the forward pass, where the logits are at hand; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, predicting: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        d_hidden = torch.zeros_like(hidden) if wants_hidden else None
        d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(1, LOGITS // len(weight))
        for places, words in zip(predicting.split(rows), targets.split(rows), strict=True):
            part = hidden[places]
            logits = torch.mm(part, weight.t())
            total += cross_entropy_(logits, words).sum()
            if d_hidden is not None:
                d_hidden.index_copy_(0, places, torch.mm(logits, weight))
            if d_weight is not None:
                d_weight += product32(logits.t(), part)
        ctx.save_for_backward(d_hidden, None if d_weight is None else d_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (above,) = gradients
        scaled = [None if one is None else one.mul_(above) for one in ctx.saved_tensors]
        return scaled[0], scaled[1], None, None


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, predicting: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the summed cross entropy in nats, a float32 scalar.

    `hidden` (tokens, width), `weight` (words, width) of the output head, `predicting` the tokens whose next one is
    learned, each once, `targets` those next ones. Backward may be called once.
    """
    total: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight, predicting, targets)  # type: ignore[no-untyped-call]
    return total
