"""Grouped experts learn as merged adapters do: 30 steps from one seed, whatever is kept for the backward pass."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tanren.common.attention.packed import registered_name
from tanren.common.chat import Sample
from tanren.common.config import Checkpointing, Experts, LoraConfig
from tanren.common.experts import choose_experts
from tanren.common.fused import choose_route
from tanren.common.lora import attach_adapter
from tanren.common.models.tiny import tiny_model
from tanren.sft.loss import packed_loss
from tanren.sft.packing import MicroBatch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
STEPS = 30
TEXT = b"the quick brown fox jumps over the lazy dog and the dog sleeps on"


def _samples() -> list[Sample]:
    generator = random.Random(0)
    found = []
    for index in range(4 * STEPS):
        begin = generator.randrange(20)
        tokens = [byte + 3 for byte in TEXT[begin : begin + generator.randrange(8, 40)]]
        found.append(Sample(str(index), tokens, [position > 3 for position in range(len(tokens))], ""))
    return found


def _curve(name: str, experts: Experts, checkpointing: Checkpointing) -> list[float]:
    model = tiny_model(name, torch.float32)
    model.set_attn_implementation(registered_name("sdpa"))
    torch.manual_seed(1)
    lora = LoraConfig(
        rank=8, alpha=16, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"]
    )
    adapted: Any = attach_adapter(model, lora)
    adapted.train()
    choice = choose_experts(adapted, experts)
    assert choice is not None
    assert choice.grouped == (experts == "grouped")
    choose_route(adapted, "plain", checkpointing, "cpu")
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    rows, losses = _samples(), []
    for step in range(STEPS):
        micro_batch = MicroBatch(tuple(rows[4 * step : 4 * step + 4]))
        loss = packed_loss(adapted, micro_batch, "cpu") / sum(sample.supervised for sample in micro_batch.samples)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", ["tiny-qwen3-moe", "tiny-gpt-oss"])
def test_the_loss_of_30_steps_is_that_of_merged_adapters(name: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # products of a few thousand numbers: more threads wait for one another
    try:
        plain = _curve(name, "plain", "none")
        grouped, again = (_curve(name, "grouped", checkpointing) for checkpointing in ("none", "full"))
    finally:
        torch.set_num_threads(threads)
    assert plain[0] - plain[-1] > 0.8, "it learns"
    assert grouped == pytest.approx(plain, abs=1e-4)
    assert again == grouped
