"""Small mixtures of experts with adapters that are not zero, computed as PEFT and the library do it, and grouped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig

from tanren.common.config import LoraConfig
from tanren.common.lora import attach_adapter
from tanren.common.models.tiny import tiny_model

MakeExperts = Callable[..., Any]
Pass = Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
MIXTRAL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 5,
    "num_experts_per_tok": 3,
    "vocab_size": 259,
}


def base(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return a model without adapters; biases that a checkpoint would have are not zero."""
    torch.manual_seed(7)
    if name == "mixtral":
        return AutoModelForCausalLM.from_config(MixtralConfig(**MIXTRAL), dtype=dtype)
    model = tiny_model(name, dtype)
    with torch.no_grad():
        for parameter_name, weight in model.named_parameters():
            if parameter_name.endswith("bias"):
                weight.normal_(std=0.2)
    return model


def fill(model: Any) -> None:
    """Give adapters values for which every formula counts."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))


@pytest.fixture
def mixture(one_thread: None) -> MakeExperts:
    """Return a function that gives a model with adapters, computed as PEFT and the library do it."""

    def make(
        name: str, parameters: tuple[str, ...] = (GATE_UP, DOWN), dtype: torch.dtype = torch.float32, **lora: Any
    ) -> Any:
        settings = {"rank": 8, "alpha": 12, "target_modules": ATTENTION, "target_parameters": list(parameters)} | lora
        model = attach_adapter(base(name, dtype), LoraConfig.model_validate(settings))
        fill(model)
        return model.train()

    return make


@pytest.fixture
def run_pass() -> Pass:
    """Return a function that gives logits, and gradients by name: of adapters and of what goes into the first layer."""

    def run(model: Any, tokens: int = 40) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        ids = torch.randint(0, 250, (1, tokens), generator=torch.Generator().manual_seed(1))
        embedded = model.get_base_model().get_input_embeddings()(ids).detach().requires_grad_()
        logits = model(inputs_embeds=embedded, use_cache=False).logits
        above = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).to(logits)
        model.zero_grad()
        logits.backward(above)
        found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        return logits.detach(), found | {"embedded": embedded.grad}

    return run
