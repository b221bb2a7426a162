"""The loss of one micro-batch."""

from __future__ import annotations

import numpy as np
import torch

from tanren.common.fused import next_token_loss
from tanren.sft.packing import MicroBatch


def packed_loss(model: torch.nn.Module, micro_batch: MicroBatch, device: torch.device | str) -> torch.Tensor:
    """Return the summed cross entropy of a micro-batch's supervised tokens, in nats, as a float32 scalar.

    The samples lie end to end in one row of tokens, (1, tokens), each with positions from 0. Logits are computed only
    where the next token is learned: the output head over 49,152 words would be the largest product otherwise.
    """
    samples = micro_batch.samples
    lengths = [len(sample.input_ids) for sample in samples]
    tokens = np.concatenate([np.asarray(sample.input_ids, dtype=np.int64) for sample in samples])
    positions = np.concatenate([np.arange(length) for length in lengths])
    learned = np.concatenate([np.asarray(sample.loss_mask, dtype=bool) for sample in samples])
    places = np.flatnonzero(learned & (positions > 0))  # nothing stands before a sample's first token
    read = torch.from_numpy(np.stack((tokens, positions))).to(device)
    wanted = torch.from_numpy(np.stack((places - 1, tokens[places]))).to(device)
    return next_token_loss(model, read[:1], read[1:], lengths, wanted[0], wanted[1])
