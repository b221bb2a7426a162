"""Grouped experts with adapters of their own: in the log-probabilities that learn, in the reference, and in generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tanren.common.attention.packed import registered_name
from tanren.common.completions import Sampling
from tanren.common.config import LoraConfig
from tanren.common.experts import choose_experts
from tanren.common.fused import next_token_log_probs
from tanren.common.lora import attach_adapter
from tanren.common.models.tiny import tiny_model
from tanren.grpo.micro_batches import tensors_of
from tanren.grpo.prompts import Prompt
from tanren.grpo.rollout import Rated
from tanren.grpo.transformers_engine import TransformersEngine

PROMPTS = [[65, 66, 67], [70], [80, 81, 82, 83, 84]]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def _model(name: str, experts: str) -> Any:
    base = tiny_model(name, torch.float32)
    base.set_attn_implementation(registered_name("sdpa"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = attach_adapter(base, LoraConfig(rank=4, target_modules=["q_proj"], target_parameters=EXPERTS))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn(parameter.shape) * 0.2
    choice = choose_experts(model, experts)  # type: ignore[arg-type]
    assert choice is not None
    assert choice.grouped == (experts == "grouped")
    model.eval()
    return model


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["tiny-qwen3-moe", "tiny-gpt-oss"])
def test_engine_trainer_and_reference_agree_with_the_librarys_experts(name: str) -> None:
    grouped, plain = _model(name, "grouped"), _model(name, "plain")
    engine = TransformersEngine(grouped, batch_size=4, padding=0, seed=1)
    found = engine.generate(PROMPTS, 2, Sampling(12, stop_token_ids=(2,)))
    row: Any = None
    completions = [
        Rated(Prompt(row, tuple(prompt), ""), one, "", None, {}, 0.0, None, 0, 1.0)
        for prompt, group in zip(PROMPTS, found, strict=True)
        for one in group
    ]
    made = tensors_of(completions, "cpu")
    arguments = (made.tokens, made.positions, made.lengths, made.predicting, made.targets)
    learned, library = (next_token_log_probs(model, *arguments).log_probs for model in (grouped, plain))
    learned, library = learned.detach(), library.detach()
    torch.testing.assert_close(learned, library, rtol=0, atol=2e-4)
    torch.testing.assert_close(made.engine, learned, rtol=0, atol=2e-4)
    references = [next_token_log_probs(model, *arguments, reference=True).log_probs for model in (grouped, plain)]
    torch.testing.assert_close(*references, rtol=0, atol=2e-4)
    assert (references[0] - learned).abs().max() > 1e-2
