"""The trainer of a model that unsloth has prepared: its loss, and its way of recomputing activations."""

from __future__ import annotations

from typing import Any

import torch

from tanren.sft.packing import MicroBatch
from tanren.sft.trainer import SftTrainer
from tanren.sft.unsloth_engine import unsloth_loss


class UnslothTrainer(SftTrainer):
    """SftTrainer on unsloth's forward pass: steps, optimizer, checkpoints and records are the same."""

    def prepare_model(self, model: Any, device: str) -> None:
        """Leave it as unsloth has set it when it attached the adapter."""

    def micro_batch_loss(self, model: torch.nn.Module, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the summed cross entropy of a micro-batch's supervised tokens."""
        samples = micro_batch.samples
        tokens = [sample.input_ids for sample in samples]
        return unsloth_loss(model, tokens, [sample.loss_mask for sample in samples], self.args.device)
