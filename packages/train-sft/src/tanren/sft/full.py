"""Full fine-tuning: every weight is trained, and the whole model is saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_model, save_model

from tanren.common.console import Console
from tanren.common.master_weights import MasterWeights
from tanren.common.run import RunDirectory, folder_written_aside
from tanren.common.workspace import sha256_of
from tanren.sft.plan import Plan
from tanren.sft.trainer import SftTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tanren.common.models.device import DevicePlan
    from tanren.common.models.load import LoadedModel

WEIGHTS = "model.safetensors"


def train_all_weights(model: PreTrainedModel, console: Console) -> PreTrainedModel:
    """Make all weights of a loaded model trainable, and say so."""
    model.config.use_cache = False
    model.requires_grad_(True)
    number = sum(weight.numel() for weight in model.parameters())
    dtype = str(model.dtype).removeprefix("torch.")
    copies = "" if model.dtype == torch.float32 else f"; {dtype} computes, and float32 copies take the updates"
    console.line(f"full: all {number:,} parameters are trained{copies}")
    return model


def save_full(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    run: RunDirectory,
    plan: Plan,
    loaded: LoadedModel,
    template: str,
    device: DevicePlan,
) -> None:
    """Write the model with its tokenizer, loadable as any model's folder, and what it was trained from beside it."""
    if run.model.exists():  # this run's own, from before it was interrupted in its last evaluation
        shutil.rmtree(run.model)
    model.config.use_cache = True
    with folder_written_aside(run.model) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        provenance = {
            "base_model": loaded.provenance,
            "parents": [link.merged_record() for link in plan.parents(device.dtype)],
            "method": "full",
            "weights_sha256": {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))},
            "recipe": plan.config.name,
            "chat_template_hash": template,
        }
        run.write_json(folder / "provenance.json", provenance)
    model.config.use_cache = False


class FullTrainer(SftTrainer):
    """The trainer of all weights: updates go to float32 copies, and a checkpoint holds them and the whole model."""

    _master_weights: MasterWeights

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the optimizer of the copies."""
        made = super().create_optimizer(model)
        self._master_weights = MasterWeights(self._own_model.parameters())
        self._master_weights.attach(made)
        return made

    def tensors_with_gradients(self, model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        """Return what holds the gradients, by the weights' names."""
        return {name: self._master_weights.of(weight) for name, weight in model.named_parameters()}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        del state_dict
        assert output_dir is not None, "checkpoints name their folder"
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        # As they are in memory: `save_pretrained` takes fused experts apart, and what the Trainer cannot match it does not load.
        save_model(self._own_model, str(Path(output_dir) / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(model or self._own_model, Path(resume_from_checkpoint) / WEIGHTS, device=str(self.args.device))
