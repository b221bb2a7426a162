"""The LoRA adapter that is trained: attached to the base model, and saved with what it was trained on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tanren.common.chain import PROVENANCE, SETTINGS, WEIGHTS, Link, copy_parents
from tanren.common.config import LoraConfig
from tanren.common.lora import attach_adapter
from tanren.common.models.source import ModelSource
from tanren.common.run import RunDirectory, folder_written_aside
from tanren.common.workspace import sha256_of

if TYPE_CHECKING:
    from tanren.common.models.device import DevicePlan
    from tanren.common.models.load import LoadedModel


def attach_lora(loaded: LoadedModel, lora: LoraConfig, seed: int) -> Any:
    """Wrap the model with a fresh adapter; its initialisation depends on the seed alone."""
    from transformers import set_seed

    set_seed(seed)
    model = attach_adapter(loaded.model, lora)
    # With a name, every checkpoint would ask the hub whether the vocabulary was resized; `save_adapter` names it.
    model.peft_config["default"].base_model_name_or_path = ""
    return model


def save_adapter(
    model: Any,
    run: RunDirectory,
    *,
    source: ModelSource,
    loaded: LoadedModel,
    parents: Sequence[Link],
    recipe: str,
    rank: int,
    template: str,
    device: DevicePlan,
) -> None:
    """Write the adapter with what it was trained on beside it: the base, and the files and hashes of its parents.

    `recipe` is the recipe's name, `template` the hash of the chat template.
    """
    # The name that can be resolved again, not a folder of this machine.
    named = source.location if source.kind in ("hub", "folder") else source.name
    model.peft_config["default"].base_model_name_or_path = named
    if run.adapter.exists():  # this run's own, from before it was interrupted in its last evaluation
        shutil.rmtree(run.adapter)
    with folder_written_aside(run.adapter) as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        provenance = {
            "base_model": loaded.provenance,
            "parents": copy_parents(parents, folder),
            "adapter_sha256": sha256_of(folder / WEIGHTS),
            "adapter_config_sha256": sha256_of(folder / SETTINGS),
            "run": run.label,
            "recipe": recipe,
            "rank": rank,
            "trained_in": device.dtype,
            "chat_template_hash": template,
        }
        run.write_json(folder / PROVENANCE, provenance)
