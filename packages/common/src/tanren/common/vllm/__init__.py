"""vLLM with the weights of a model that stands beside it on the same GPU."""

from tanren.common.vllm._engine import Settings, Vllm
from tanren.common.vllm._weights import checkpoint_weights

__all__ = ["Settings", "Vllm", "checkpoint_weights"]
