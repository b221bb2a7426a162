"""Loads models and tokenizers, whatever their source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from tanren.common.config import Quantisation
from tanren.common.errors import UserError
from tanren.common.fp8 import quantise_model, require_fp8_here
from tanren.common.models.chat_template import choose_template
from tanren.common.models.device import DevicePlan
from tanren.common.models.packaged import converted_folder
from tanren.common.models.quantised import (
    BITS,
    dequantising,
    fp8_line,
    keep_trainable,
    quantised_line,
    quantising,
    require_bitsandbytes,
    stored_quantisation,
)
from tanren.common.models.source import ModelSource
from tanren.common.models.tiny import tiny_model, tiny_tokenizer

if TYPE_CHECKING:
    from tanren.common.fp8 import Batch

# Its bars would be drawn across ours; phases say what is being loaded.
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, and what identifies its weights."""

    model: PreTrainedModel
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()
    """What is to be said about its weights."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """What fewer bits cost in accuracy, where that was measured."""


def load_tokenizer(source: ModelSource, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer, with the chat template that is named or its own (whether it has one is checked when it renders).

    Raises UserError where the files cannot be had, or the template.
    """
    tokenizer = tiny_tokenizer() if source.kind == "tiny" else _tokenizer(source)
    choose_template(tokenizer, chat_template, source.name)
    return tokenizer


def _tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    with model_location(source) as (location, revision):
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location, revision=revision)
        except (OSError, ValueError) as error:
            raise UserError(_not_loadable("tokenizer", source, error)) from None
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        # transformers 5 makes an empty tokenizer of the model's kind where the files are missing, and says nothing.
        raise UserError(
            _not_loadable("tokenizer", source, FileNotFoundError("no vocabulary; is tokenizer.json missing?"))
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer of {source.name} has no character offsets (it is not a fast one); they carry the loss mask"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    source: ModelSource, plan: DevicePlan, quantisation: Quantisation = "none", batch: Batch | None = None
) -> LoadedModel:
    """Return the model in the planned precision on the planned device, its linear layers in 4 or 8 bits if so asked.

    `batch`: rows on which is measured what fp8 costs. A checkpoint that is stored as MXFP4 is dequantised. Raises UserError where
    the files cannot be had, bitsandbytes is missing, the device has no fp8, or a stored format cannot be trained.
    """
    require_bitsandbytes(quantisation)
    if quantisation == "fp8":
        require_fp8_here(plan)
    if source.kind == "tiny" and quantisation in ("none", "fp8"):
        tiny: Any = tiny_model(source.location, plan.torch_dtype)
        return _placed(LoadedModel(tiny, source.provenance()), plan, quantisation, batch)
    with model_location(source) as (location, revision):
        try:
            stored = stored_quantisation(AutoConfig.from_pretrained(location, revision=revision))
            settings = dequantising(source.name, stored, quantisation) if stored else None
            if quantisation in BITS:
                settings = quantising(quantisation, plan.torch_dtype)
            # Quantised and dequantised where it will be: a GPU does it in seconds, and one copy of the weights suffices.
            placed = {"quantization_config": settings, "device_map": {"": plan.device}} if settings else {}
            model: Any = AutoModelForCausalLM.from_pretrained(
                location, revision=revision, dtype=plan.torch_dtype, **placed
            )
        except (OSError, ValueError) as error:
            raise UserError(_not_loadable("model", source, error)) from None
    provenance = source.provenance()
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        provenance["commit"] = commit
    if quantisation in BITS:
        keep_trainable(model)
        provenance["quantisation"] = quantisation
        return LoadedModel(model, provenance, (quantised_line(model, quantisation),))
    if stored:
        provenance["dequantised_from"] = stored
        # Saving would run the dequantisation backwards, under names that all layers share: every expert would be lost.
        model._weight_conversions = None
        model.to(plan.torch_dtype)  # experts come out as bfloat16, whatever was asked for
        note = f"the checkpoint is stored as {stored}: dequantised to {plan.dtype} for training"
        return LoadedModel(model.to(plan.device), provenance, (note,))
    return _placed(LoadedModel(model, provenance), plan, quantisation, batch)


def in_fp8(loaded: LoadedModel, device: str, batch: Batch | None) -> LoadedModel:
    """Return a model with its linear layers in 8-bit floating point on a device, with what is to be said of it.

    Raises UserError where it has no such layer.
    """
    made = quantise_model(loaded.model, device, batch)
    name = type(loaded.model).__name__
    if not made.layers:
        raise UserError(f"model.quantisation = fp8 reaches no linear layer of {name}; leave it at none")
    notes = (*loaded.notes, fp8_line(loaded.model, made, device))
    provenance = loaded.provenance | {"quantisation": "fp8"}
    if made.cost is None:
        return replace(loaded, provenance=provenance, notes=notes)
    return LoadedModel(loaded.model, provenance, (*notes, made.cost.line()), asdict(made.cost))


def _placed(loaded: LoadedModel, plan: DevicePlan, quantisation: Quantisation, batch: Batch | None) -> LoadedModel:
    if quantisation == "fp8":
        return in_fp8(loaded, plan.device, batch)
    model: Any = loaded.model
    return replace(loaded, model=model.to(plan.device))


@contextmanager
def model_location(source: ModelSource) -> Iterator[tuple[str, str | None]]:
    """Give the folder or hub id, and the revision; a tiny model has a folder for as long as it is read."""
    if source.kind == "tiny":
        with TemporaryDirectory() as folder:
            tiny_model(source.location, torch.float32).save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
            yield folder, None
    elif source.kind == "packaged":
        yield str(converted_folder(source)), None
    else:
        yield source.location, source.revision


def _not_loadable(what: str, source: ModelSource, error: Exception) -> str:
    reason = str(error).strip().split("\n", 1)[0]
    if source.kind == "hub":
        where = f"the hub model {source.location}" + (f" at revision {source.revision}" if source.revision else "")
        return f"the {what} of {source.name} cannot be loaded from {where}: {reason}; check the name, the network and HF_TOKEN, or name a local folder"
    return f"the {what} of {source.name} cannot be loaded from {source.location}: {reason}"
