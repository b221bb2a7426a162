"""What vLLM can run on, and what it takes on a GPU by what it is for; settled before it is imported.

Its share of the memory is weights, the peak of a trial pass, CUDA graphs; the rest becomes KV cache. Completions of one prompt
share the keys and values of that prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

BLOCK = 16
"""Tokens whose keys and values vLLM keeps together."""
BATCHED_TOKENS = 8192
"""Prompt tokens that are read in one pass, at most."""
GIB = 2**30
BYTES = 2  # of a value in bfloat16
# Of a model of a few billion parameters with vLLM's default sizes; not measured by us yet.
CUDA_GRAPHS = GIB
# Asleep, what CUDA graphs and the engine's own buffers hold stays.
ASLEEP = GIB // 2


def vllm_refusal(device: str, dtype: str, quantisation: str) -> str | None:
    """Return why vLLM cannot generate in this process with a model in this precision; None where it can."""
    if device != "cuda":
        return "vLLM generates on a GPU, and this run's device is the CPU"
    if dtype == "float32":
        return "vLLM's attention computes in 16 bits, and the model is in float32"
    if find_spec("vllm") is None:
        return "vLLM is not installed in this environment; those for GPUs have it (docs/environments.md)"
    if quantisation not in ("none", "nf4"):
        return f"vLLM takes weights in 16 bits, which {quantisation} ones are not turned back into"
    return None


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
class VllmMemory:
    """vLLM with one model, and what is generated together: a step of a training, a batch of an evaluation."""

    config: Any
    """The model's transformers configuration."""
    weights: int
    """Bytes."""
    total: int
    """Bytes of the device."""
    prompt_tokens: int
    """Of the longest prompt."""
    new_tokens: int
    """Of the longest completion."""
    prompts: int
    """Generated together."""
    sequences: int
    """Completions of them all."""
    graphs: bool

    @property
    def trial_pass(self) -> int:
        """Bytes of the largest activations: the widest layer of the largest batch, and the logits of all sequences in float32, twice."""
        text = self.config.get_text_config()
        experts = getattr(text, "num_experts_per_tok", None) or 1
        inner = getattr(text, "moe_intermediate_size", None) or text.intermediate_size
        widest = experts * (3 * inner + 2 * text.hidden_size) + 4 * text.hidden_size
        return int(BYTES * BATCHED_TOKENS * widest + 2 * 4 * self.sequences * text.vocab_size)

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
        """Bytes of the KV cache of the longest sequence alone."""
        return kv_bytes(self.config, _in_blocks(self.prompt_tokens + self.new_tokens))

    @property
    def together(self) -> int:
        """Bytes of the KV cache of all completions, each as long as it may be: a prompt counts once."""
        own = kv_bytes(
            self.config, _in_blocks(self.new_tokens) + BLOCK
        )  # the prompt's last block is each completion's own
        return self.prompts * kv_bytes(self.config, _in_blocks(self.prompt_tokens)) + self.sequences * own

    @property
    def least(self) -> float:
        """The least share of the device's memory that vLLM can work with: one sequence."""
        return (sum(self.fixed.values()) + self.sequence) / self.total

    @property
    def most(self) -> float:
        """The share that holds all completions at once; more is of no use."""
        return (sum(self.fixed.values()) + max(self.sequence, self.together)) / self.total

    def cache(self, share: float) -> int:
        """Return the bytes of the KV cache with a share of the device's memory; 0 where not even the rest fits into it."""
        return max(0, int(share * self.total) - sum(self.fixed.values()))

    def held(self, cache: int) -> float:
        """Return how many completions a KV cache of so many bytes holds at once."""
        return cache * self.sequences / self.together


def _in_blocks(tokens: int) -> int:
    """Return the tokens that are kept for so many: whole blocks."""
    return -(-tokens // BLOCK) * BLOCK
