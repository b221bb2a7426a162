"""Log-probabilities of single tokens through the output head, without ever holding all logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tanren.common.fused._choice import last_hidden, library_logits, route_of
from tanren.common.fused._loss import LOGITS
from tanren.common.fused._model import FusedModel, plain_head
from tanren.common.fused._operations import cross_entropy_
from tanren.common.fused._projections import product32

CPU_LOGITS = 2**25
"""As LOGITS, on a CPU: its products are as fast on a few hundred tokens, and float32 copies stand beside them there."""
# Rows whose logits are held in float32 beside the others, for their entropy: 0.3 GiB with 151,936 words.
ENTROPY_ROWS = 512


@dataclass(frozen=True)
class TokenLogProbs:
    """Of each token that is predicted, in nats, float32, (predicted tokens,)."""

    log_probs: torch.Tensor
    entropies: torch.Tensor
    """Of the distribution that predicts it; without gradient."""


class _LinearLogProbs(torch.autograd.Function):
    """The gradient of each row is made in the forward pass, where the logits are at hand; the backward pass scales it."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, predicting: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        assert not wants_weight, "the output head is frozen: an adapter does not reach it"
        stored = hidden.new_empty(len(predicting), hidden.shape[1]) if wants_hidden else None
        log_probs, entropies = [], []
        on_cpu = hidden.device.type == "cpu"
        first, rows = 0, max(1, (CPU_LOGITS if on_cpu else LOGITS) // len(weight))
        for places, words in zip(predicting.split(rows), targets.split(rows), strict=True):
            # On a CPU in float32, as generation has them there: rounded to bfloat16, logits above 16 are an eighth of a nat apart.
            logits = (product32 if on_cpu else torch.mm)(hidden[places], weight.t())
            entropies.append(_entropies(logits))
            log_probs.append(-cross_entropy_(logits, words))
            if stored is not None:
                torch.mm(logits.to(weight.dtype), weight, out=stored[first : first + len(places)])
            first += len(places)
        ctx.save_for_backward(stored, predicting)
        ctx.tokens = len(hidden)
        found = torch.cat(entropies)
        ctx.mark_non_differentiable(found)
        return torch.cat(log_probs), found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        stored, predicting = ctx.saved_tensors
        if stored is None:
            return None, None, None, None
        # What is stored is the gradient of the cross entropy, the log-probability's with the other sign.
        rows = stored.mul_(-gradients[0][:, None])
        return stored.new_zeros(ctx.tokens, stored.shape[1]).index_add_(0, predicting, rows), None, None, None


def linear_log_probs(
    hidden: torch.Tensor, weight: torch.Tensor, predicting: torch.Tensor, targets: torch.Tensor
) -> TokenLogProbs:
    """Return the log-probability of each target, with gradient to `hidden`.

    `hidden` (tokens, width), `weight` (words, width) of a frozen output head, `predicting` the tokens whose next one is
    asked for (one may predict several), `targets` those next ones. Backward may be called once.
    """
    log_probs, entropies = _LinearLogProbs.apply(hidden, weight, predicting, targets)  # type: ignore[no-untyped-call]
    return TokenLogProbs(log_probs, entropies)


def next_token_log_probs(
    model: Any,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    lengths: Sequence[int],
    predicting: torch.Tensor,
    targets: torch.Tensor,
    *,
    follows: Sequence[bool] = (),
    reference: bool = False,
) -> TokenLogProbs:
    """Return the log-probability of each of `targets`, what follows the tokens `predicting`, at temperature 1.

    `tokens` and `positions` are (1, tokens): samples of these lengths end to end, each with positions from 0, or from where the
    sample ends that it goes on from (`follows`, see `packing_arguments`). `reference`: of the model without its adapter, and
    without gradient.
    """
    if reference:
        # By the library's layers: fused ones have the adapters built in.
        with torch.no_grad(), model.disable_adapter():
            return _log_probs(model, None, tokens, positions, lengths, predicting, targets, follows)
    return _log_probs(model, route_of(model).fused, tokens, positions, lengths, predicting, targets, follows)


def _log_probs(
    model: Any,
    fused: FusedModel | None,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    lengths: Sequence[int],
    predicting: torch.Tensor,
    targets: torch.Tensor,
    follows: Sequence[bool],
) -> TokenLogProbs:
    head = plain_head(model)
    if head is not None:
        hidden = last_hidden(model, fused, tokens, positions, lengths, follows)
        return linear_log_probs(hidden, head.weight, predicting, targets)
    assert fused is None, "what is fused has a plain output head"
    # A head with more to it than a product goes the library's way, with all logits of the predicted tokens at once.
    logits = library_logits(model, tokens, positions, lengths, predicting, follows)
    log_probs = logits.float().log_softmax(dim=-1).gather(1, targets[:, None])[:, 0]
    return TokenLogProbs(log_probs, _entropies(logits.detach()))


def _entropies(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row in nats, float32."""
    with torch.no_grad():
        found = []
        for part in logits.split(ENTROPY_ROWS):
            log_probs = part.float().log_softmax(dim=-1)
            found.append(-(log_probs.exp() * log_probs).sum(dim=-1))
        return torch.cat(found)
