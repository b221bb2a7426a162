"""vLLM with the weights of a model that stands beside it on the same GPU."""

from tanren.common.vllm._engine import Settings, Vllm
from tanren.common.vllm._fit import Fitted, fit_settings
from tanren.common.vllm._weights import adapted_names, checkpoint_weights, head_stands_apart

__all__ = ["Fitted", "Settings", "Vllm", "adapted_names", "checkpoint_weights", "fit_settings", "head_stands_apart"]
