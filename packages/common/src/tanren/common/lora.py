"""The LoRA adapter that a recipe describes, put on a model: the one way for every trainer and the planner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tanren.common.config import LoraConfig
from tanren.common.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def attach_adapter(model: PreTrainedModel, lora: LoraConfig) -> Any:
    """Wrap a model with a fresh adapter on the model's own device; its initialisation follows torch's random state.

    Raises UserError where the adapter cannot be put on this model.
    """
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    from tanren.common.experts import adapter_classes

    model.config.use_cache = False
    settings = PeftConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        target_parameters=lora.target_parameters or None,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        task_type="CAUSAL_LM",
    )
    # Loaded as any adapter, what it saves has PEFT's own classes: the choice is no part of its file.
    settings._register_custom_module(adapter_classes(model))
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        raise UserError(f"lora.target_modules {lora.target_modules!r}: {error}") from None
