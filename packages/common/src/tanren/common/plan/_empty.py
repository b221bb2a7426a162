"""Models without weights: the configuration of a hub, local or builtin model, and the model of its shape on torch's meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from tanren.common.errors import UserError
from tanren.common.models.quantised import stored_quantisation
from tanren.common.models.source import SMOLLM2_HUB, ModelSource
from tanren.common.models.tiny import tiny_config

# SmolLM2-135M-Instruct, as its config.json on the hub says; the packaged weights carry no config.json of their own.
_SMOLLM2: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Shape:
    """The architecture of a model, read from its configuration alone."""

    name: str
    config: PreTrainedConfig
    notes: tuple[str, ...] = ()
    """What the planner left aside, for people."""


def read_shape(source: ModelSource) -> Shape:
    """Return the architecture of a model; of a hub model only config.json is fetched.

    Raises UserError where the configuration cannot be had.
    """
    if source.kind == "tiny":
        return Shape(source.name, tiny_config(source.location))
    if source.kind == "packaged" or source.location == SMOLLM2_HUB:
        return shape_of(source.name, _SMOLLM2)
    try:
        config = AutoConfig.from_pretrained(source.location, revision=source.revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise UserError(
            f"the configuration of {source.name} cannot be read: {reason}; check the name, the network and HF_TOKEN, or "
            "name a local folder (its config.json is enough for a plan)"
        ) from None
    return _without_quantisation(source.name, config)


def shape_of(name: str, values: dict[str, Any]) -> Shape:
    """Return the architecture that the values of a config.json describe."""
    settings = dict(values)
    return _without_quantisation(name, AutoConfig.for_model(settings.pop("model_type"), **settings))


def _without_quantisation(name: str, config: PreTrainedConfig) -> Shape:
    """Training works on bfloat16 or float32 weights: a checkpoint that is stored quantised is dequantised when it is loaded."""
    stored = stored_quantisation(config)
    if stored is None:
        return Shape(name, config)
    del config.quantization_config
    return Shape(name, config, (f"the checkpoint is stored as {stored}: planned as it is trained, dequantised",))


def empty_model(shape: Shape, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model without data, every parameter of `dtype` on torch's meta device."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(shape.config, dtype=dtype)
    return model
