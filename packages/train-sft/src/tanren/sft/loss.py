"""The loss of one micro-batch."""

from __future__ import annotations

import torch

from tanren.common.fused import next_token_loss
from tanren.sft.packing import MicroBatch


def packed_loss(model: torch.nn.Module, micro_batch: MicroBatch, device: torch.device | str) -> torch.Tensor:
    """Return the summed cross entropy of a micro-batch's supervised tokens, in nats, as a float32 scalar.

    The samples lie end to end in one row of tokens, (1, tokens), each with positions from 0. Logits are computed only
    where the next token is learned: the output head over 49,152 words would be the largest product otherwise.
    """
    tokens: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    targets: list[int] = []
    for sample in micro_batch.samples:
        offset = len(tokens)
        tokens += sample.input_ids
        positions += range(len(sample.input_ids))
        for index in range(1, len(sample.input_ids)):
            if sample.loss_mask[index]:
                predicting.append(offset + index - 1)
                targets.append(sample.input_ids[index])
    ids, rows = torch.tensor([tokens, positions], device=device), torch.tensor([predicting, targets], device=device)
    lengths = [len(sample.input_ids) for sample in micro_batch.samples]
    return next_token_loss(model, ids[:1], ids[1:], lengths, rows[0], rows[1])
