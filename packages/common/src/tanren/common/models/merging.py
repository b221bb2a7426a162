"""Adapters put on a model: loaded strictly, or merged into its weights, one weight at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from tanren.common.chain import Link
from tanren.common.config import Quantisation
from tanren.common.errors import UserError
from tanren.common.models.device import DevicePlan
from tanren.common.models.load import LoadedModel, in_fp8, load_model
from tanren.common.models.source import ModelSource

if TYPE_CHECKING:
    from tanren.common.fp8 import Batch

ADAPTER = "default"


def with_parents(
    loaded: LoadedModel,
    chain: Sequence[Link],
    device: DevicePlan,
    quantisation: Quantisation,
    batch: Batch | None = None,
) -> LoadedModel:
    """Return a model with its parents merged into its 16- or 32-bit weights, and then quantised if so asked.

    It is quantised by bitsandbytes as any checkpoint is: written into a temporary folder, and read from there; or put into fp8,
    where `batch` says on which rows is measured what that costs.
    """
    merged = merge_chain(loaded.model, chain)
    if quantisation == "none":
        return replace(loaded, model=merged)
    if quantisation == "fp8":
        return in_fp8(replace(loaded, model=merged), device.device, batch)
    with TemporaryDirectory() as folder:
        merged.save_pretrained(folder)
        quantised = load_model(ModelSource(folder, "folder", folder), device, quantisation)
    return LoadedModel(quantised.model, loaded.provenance | {"quantisation": quantisation}, quantised.notes)


def merge_chain(model: PreTrainedModel, chain: Sequence[Link]) -> PreTrainedModel:
    """Merge adapters into a model's weights, one after the other, in place; return the model without adapters.

    Each weight that an adapter changes is raised to float32, gets the adapter's update, and is rounded once to the
    precision in which the adapter's child was trained (`stored_in`), then to the model's own. So a chain gives the same
    weights wherever the model's precision is at least that one. Works on the model's own device; beside the model there
    are two float32 copies of one weight. The weights must not be quantised.

    Raises UserError where an adapter does not fit the model, or would make a weight infinite.
    """
    for link in chain:
        model = _merged(load_adapter(model, link.folder), link)
    return model


def load_adapter(model: PreTrainedModel, folder: Path) -> Any:
    """Wrap a model with a trained adapter, not merged. Raises UserError where a single weight is missing or left over."""
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    settings = PeftConfig.from_pretrained(str(folder))
    settings.base_model_name_or_path = None  # provenance.json says which base it belongs to
    weights = load_peft_weights(str(folder), device=str(model.device))
    try:
        wrapped = get_peft_model(model, settings)
        result: Any = set_peft_model_state_dict(wrapped, weights)
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"the adapter {folder} does not fit this model: {error}") from None
    missing = [name for name in result.missing_keys if ".lora_" in name]
    if missing or result.unexpected_keys:
        raise UserError(
            f"the adapter {folder} does not fit this model: {len(missing)} of its weights are missing "
            f"({', '.join(missing[:3])}), {len(result.unexpected_keys)} are left over ({', '.join(result.unexpected_keys[:3])})"
        )
    return wrapped


def _merged(wrapped: Any, link: Link) -> PreTrainedModel:
    """Merge a loaded adapter into the weights below it, and take its layers off."""
    from peft.tuners.lora import LoraLayer, ParamWrapper

    stored_in: torch.dtype = getattr(torch, link.stored_in)
    _refuse_tied(wrapped, link)
    with torch.no_grad():
        for layer in [module for module in wrapped.modules() if isinstance(module, LoraLayer)]:
            name = layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"
            weight = getattr(layer.get_base_layer(), name)
            own = weight.dtype
            assert own.is_floating_point, (
                "quantised weights are never merged into: what is quantised is the merged model"
            )
            weight.data = weight.data.float()
            try:
                layer.merge(safe_merge=True, adapter_names=[ADAPTER])
            except ValueError as error:
                raise UserError(f"the adapter {link.folder} cannot be merged: {error}") from None
            weight.data = weight.data.to(stored_in).to(own)
    model: PreTrainedModel = wrapped.unload()
    return model


def _refuse_tied(wrapped: Any, link: Link) -> None:
    """An update of the output head alone would reach the embeddings too, where both are one tensor."""
    base = wrapped.get_base_model()
    head, embeddings = base.get_output_embeddings(), base.get_input_embeddings()
    if not any(hasattr(part, "base_layer") for part in (head, embeddings)):
        return
    weights = [getattr(part, "base_layer", part).weight for part in (head, embeddings)]
    if weights[0] is weights[1]:
        raise UserError(
            f"the adapter {link.folder} cannot be merged: it changes the output head or the embeddings, and this model "
            "has one tensor for both"
        )
