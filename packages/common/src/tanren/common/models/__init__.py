"""Models and tokenizers: what a name means (`_source`), how it is loaded (`_load`), the builtin ones."""

from ._device import DevicePlan, plan_device
from ._load import LoadedModel, load_model, load_tokenizer
from ._source import BUILTIN_NAMES, ModelSource, resolve_source

__all__ = [
    "BUILTIN_NAMES",
    "DevicePlan",
    "LoadedModel",
    "ModelSource",
    "load_model",
    "load_tokenizer",
    "plan_device",
    "resolve_source",
]
