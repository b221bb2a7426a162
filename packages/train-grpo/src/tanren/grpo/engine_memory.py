"""What vLLM takes on the GPU that it shares with the trainer, by what it is for.

vLLM claims `gpu_memory_utilization` of all memory: weights, the peak of a trial pass, CUDA graphs; the rest becomes KV
cache (vllm/v1/worker/gpu_worker.py, determine_available_memory, 0.25.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB = 2**30
BYTES = 2  # of a value in bfloat16
# vllm/engine/arg_utils.py, get_batch_defaults: with 70 GiB and more (an A100 apart), and with less.
LARGE_GPU = 70 * GIB
BATCHED_TOKENS, SEQUENCES = {True: 16384, False: 8192}, {True: 1024, False: 256}
# Of a model of a few billion parameters with vLLM's default sizes; not measured by us yet.
CUDA_GRAPHS = GIB
# Asleep, what CUDA graphs and the engine's own buffers hold stays.
ASLEEP = GIB // 2


def kv_bytes(config: Any, tokens: int) -> int:
    """Return the KV cache of one sequence of so many tokens: keys and values of all layers, sliding ones up to their window."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    held = sum(min(tokens, window) if kind == "sliding_attention" and window else tokens for kind in kinds)
    return int(2 * BYTES * heads * size * held)


@dataclass(frozen=True)
class Engine:
    """vLLM with one model."""

    config: Any
    """The model's transformers configuration."""
    weights: int
    """Bytes."""
    total: int
    """Bytes of the device."""
    sequence_tokens: int
    """Tokens of the longest sequence."""
    graphs: bool

    @property
    def trial_pass(self) -> int:
        """Bytes of the largest activations: the widest layer of the largest batch, and the logits of all sequences in float32, twice."""
        text = self.config.get_text_config()
        large = self.total >= LARGE_GPU
        experts = getattr(text, "num_experts_per_tok", None) or 1
        inner = getattr(text, "moe_intermediate_size", None) or text.intermediate_size
        widest = experts * (3 * inner + 2 * text.hidden_size) + 4 * text.hidden_size
        return int(BYTES * BATCHED_TOKENS[large] * widest + 2 * 4 * SEQUENCES[large] * text.vocab_size)

    @property
    def fixed(self) -> Mapping[str, int]:
        """Bytes beside the KV cache."""
        return {
            "vLLM weights": self.weights,
            "vLLM activations": self.trial_pass,
            "CUDA graphs": CUDA_GRAPHS if self.graphs else 0,
        }

    @property
    def sequence(self) -> int:
        """Bytes of the KV cache of the longest sequence."""
        return kv_bytes(self.config, self.sequence_tokens)

    def share_for(self, sequences: int) -> float:
        """Return the least share of the device's memory that holds so many of the longest sequences at once."""
        return (sum(self.fixed.values()) + sequences * self.sequence) / self.total

    def cache(self, share: float) -> int:
        """Return the bytes of the KV cache with a share of the device's memory; 0 where not even the rest fits into it."""
        return max(0, int(share * self.total) - sum(self.fixed.values()))
