"""Random models of the architectures that have fused layers, with adapters, and a packed micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from tanren.common.attention.packed import packing_arguments, registered_name
from tanren.common.config import Checkpointing
from tanren.common.fused import choose_route, next_token_loss, route_of

MakeModel = Callable[..., Any]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
COMMON: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,  # heads wider than the hidden states
    "vocab_size": 71,
    "max_position_embeddings": 512,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "mistral": {"model_type": "mistral", "sliding_window": 5},
    "qwen2": {"model_type": "qwen2", "head_dim": 12, "tie_word_embeddings": True},
    "qwen2-windows": {
        "model_type": "qwen2",
        "head_dim": 12,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 4, "tie_word_embeddings": True},
}


@pytest.fixture
def adapted(one_thread: None) -> MakeModel:
    """Return a function that gives an architecture with adapters; the same call gives the same values.

    `change`: what is done with the base model before it gets its adapters.
    """

    def make(
        architecture: str,
        settings: dict[str, Any] | None = None,
        change: Callable[[Any], None] | None = None,
        **lora: Any,
    ) -> Any:
        values = COMMON | ARCHITECTURES[architecture] | (settings or {})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            config = AutoConfig.for_model(values.pop("model_type"), **values)
            base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            base.set_attn_implementation(registered_name("sdpa"))
            # Fresh norms are 1, biases and B are 0: nobody would notice that they are left out.
            _disturb(base)
            if change is not None:
                change(base)
            base.requires_grad_(False)
            adapter: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": ALL} | lora
            model: Any = get_peft_model(base, LoraConfig(**adapter))
            _disturb(model)
        model.train()
        return model

    return make


def _disturb(model: Any) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape) * 0.1


@dataclass(frozen=True)
class MicroBatch:
    """Packed samples of several lengths, of which some tokens are learned."""

    lengths: tuple[int, ...]
    tokens: torch.Tensor
    positions: torch.Tensor
    predicting: torch.Tensor
    targets: torch.Tensor

    def fused(self, model: Any, checkpointing: Checkpointing = "none") -> torch.Tensor:
        """Return the loss through fused layers, chosen first where they are not yet."""
        if route_of(model).fused is None:
            choose_route(model, "fused", checkpointing, "cpu", proven=False)
        assert route_of(model).fused is not None
        return next_token_loss(model, self.tokens, self.positions, self.lengths, self.predicting, self.targets)

    def library(self, model: Any) -> torch.Tensor:
        """Return the loss by the library's own forward pass, with no code of ours but the attention over packed samples."""
        extra = packing_arguments(self.lengths, "cpu")
        logits = model(input_ids=self.tokens, position_ids=self.positions, use_cache=False, **extra).logits[0]
        return cross_entropy(logits[self.predicting], self.targets, reduction="sum")


@pytest.fixture
def micro_batch() -> MicroBatch:
    """Return samples of 11, 1, 7 and 18 tokens."""
    lengths = (11, 1, 7, 18)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, COMMON["vocab_size"], (1, sum(lengths)), generator=generator)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    predicting = torch.tensor([4, 5, 9, 13, 14, 20, 30, 35])
    return MicroBatch(lengths, tokens, positions, predicting, tokens[0, predicting + 1])
