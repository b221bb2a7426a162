"""What 8 bits cost in accuracy: hidden states and loss of some rows, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tanren.common.chat import Sample

TOKENS = 2048
"""Of the rows on which the cost is measured, padding included: their logits are held at once."""


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, padded behind: a causal model's hidden states before the padding do not know of it."""

    input_ids: torch.Tensor
    """(rows, tokens)"""
    is_real: torch.Tensor
    """(rows, tokens): no padding."""
    is_learned: torch.Tensor
    """(rows, tokens): the next token is learned."""


@dataclass(frozen=True)
class Reading:
    """What a model makes of a batch."""

    hidden: torch.Tensor
    """(tokens that are no padding, width), float32."""
    loss: float
    """Mean cross entropy of the learned tokens, in nats."""


@dataclass(frozen=True)
class Cost:
    """What a model loses by fewer bits, on a batch."""

    tokens: int
    hidden: float
    """||rounded - exact|| / ||exact|| of the last hidden states."""
    loss_before: float
    loss_after: float

    def line(self) -> str:
        """Say it in one line."""
        more = 100 * (self.loss_after / self.loss_before - 1) if self.loss_before else 0.0
        return (
            f"fp8 costs, on the first rows ({self.tokens} tokens): hidden states {self.hidden:.1e} from those of the unrounded "
            f"weights, loss {self.loss_before:.4f} -> {self.loss_after:.4f} ({more:+.2f} %)"
        )


def first_rows(samples: Sequence[Sample]) -> Batch:
    """Return the first samples that together have no more than `TOKENS` tokens; of a longer first one its beginning."""
    taken: list[Sample] = []
    for sample in samples:
        width = max(len(one.input_ids) for one in (*taken, sample))
        if taken and (len(taken) + 1) * width > TOKENS:
            break
        taken.append(sample)
    width = min(TOKENS, max(len(sample.input_ids) for sample in taken))
    ids, real, learned = (
        torch.zeros((len(taken), width), dtype=dtype) for dtype in (torch.long, torch.bool, torch.bool)
    )
    for row, sample in enumerate(taken):
        length = min(width, len(sample.input_ids))
        ids[row, :length] = torch.tensor(list(sample.input_ids[:length]))
        real[row, :length] = True
        learned[row, : length - 1] = torch.tensor([bool(one) for one in sample.loss_mask[1:length]], dtype=torch.bool)
    return Batch(ids, real, learned)


def read(model: Any, batch: Batch, device: str) -> Reading:
    """Run a batch through a causal language model, without gradients."""
    ids, real, learned = (part.to(device) for part in (batch.input_ids, batch.is_real, batch.is_learned))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        rows, places = learned.nonzero(as_tuple=True)
        logits = model.get_output_embeddings()(hidden[rows, places])
        loss = (
            torch.nn.functional.cross_entropy(logits.float(), ids[rows, places + 1]) if len(rows) else torch.zeros(())
        )
    model.train(was_training)
    return Reading(hidden[real].float(), float(loss))


def compare(before: Reading, after: Reading) -> Cost:
    """Return what was lost between two readings of one batch."""
    off = (after.hidden - before.hidden).norm() / before.hidden.norm()
    return Cost(len(before.hidden), float(off), before.loss, after.loss)
