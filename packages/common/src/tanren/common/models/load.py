"""Loads models and tokenizers, whatever their source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from tanren.common.errors import UserError
from tanren.common.models.device import DevicePlan
from tanren.common.models.packaged import converted_folder
from tanren.common.models.source import ModelSource
from tanren.common.models.tiny import tiny_model, tiny_tokenizer

# Its bars would be drawn across ours; phases say what is being loaded.
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device, and what identifies its weights."""

    model: PreTrainedModel
    provenance: dict[str, Any]


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Return the tokenizer; its chat template must exist (checked when a conversation is rendered).

    Raises UserError where the files cannot be had.
    """
    if source.kind == "tiny":
        return tiny_tokenizer()
    location, revision = _location(source)
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


def load_model(source: ModelSource, plan: DevicePlan) -> LoadedModel:
    """Return the model in the planned precision on the planned device.

    Raises UserError where the files cannot be had.
    """
    if source.kind == "tiny":
        model = tiny_model(source.location, plan.torch_dtype)
    else:
        location, revision = _location(source)
        try:
            model = AutoModelForCausalLM.from_pretrained(location, revision=revision, dtype=plan.torch_dtype)
        except (OSError, ValueError) as error:
            raise UserError(_not_loadable("model", source, error)) from None
    provenance = source.provenance()
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        provenance["commit"] = commit
    return LoadedModel(model.to(plan.device), provenance)  # type: ignore[arg-type]


def _location(source: ModelSource) -> tuple[str, str | None]:
    if source.kind == "packaged":
        return str(converted_folder(source)), None
    return source.location, source.revision


def _not_loadable(what: str, source: ModelSource, error: Exception) -> str:
    reason = str(error).strip().split("\n", 1)[0]
    if source.kind == "hub":
        where = f"the hub model {source.location}" + (f" at revision {source.revision}" if source.revision else "")
        return f"the {what} of {source.name} cannot be loaded from {where}: {reason}; check the name, the network and HF_TOKEN, or name a local folder"
    return f"the {what} of {source.name} cannot be loaded from {source.location}: {reason}"
