"""Fused layers learn as the library's do: 200 steps from one seed."""

from __future__ import annotations

import random

import pytest
import torch

from tanren.common.attention.packed import registered_name
from tanren.common.chat import Sample
from tanren.common.config import Layers, LoraConfig
from tanren.common.fused import choose_route
from tanren.common.lora import attach_adapter
from tanren.common.models.tiny import tiny_model
from tanren.sft.loss import packed_loss
from tanren.sft.packing import MicroBatch

STEPS = 200
TEXT = b"the quick brown fox jumps over the lazy dog and the dog sleeps on"


def samples() -> list[Sample]:
    generator = random.Random(0)
    found = []
    for index in range(4 * STEPS):
        begin = generator.randrange(20)
        tokens = [byte + 3 for byte in TEXT[begin : begin + generator.randrange(8, 40)]]
        found.append(Sample(str(index), tokens, [position > 3 for position in range(len(tokens))], ""))
    return found


def curve(layers: Layers) -> list[float]:
    model = tiny_model("tiny-qwen3", torch.float32)
    model.set_attn_implementation(registered_name("sdpa"))
    torch.manual_seed(1)
    adapted = attach_adapter(model, LoraConfig(rank=8, alpha=16))
    adapted.train()
    choose_route(adapted, layers, "none", "cpu")
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    rows, losses = samples(), []
    for step in range(STEPS):
        micro_batch = MicroBatch(tuple(rows[4 * step : 4 * step + 4]))
        loss = packed_loss(adapted, micro_batch, "cpu") / sum(sample.supervised for sample in micro_batch.samples)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_the_loss_of_200_steps_is_that_of_the_library_s_layers() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # products of a few thousand numbers: more threads wait for one another
    try:
        plain, fused = curve("plain"), curve("fused")
    finally:
        torch.set_num_threads(threads)
    assert plain[0] - sum(plain[-10:]) / 10 > 1.0, "it learns"
    # float32: rounding in other places, which 200 updates of Adam carry on
    assert fused == pytest.approx(plain, rel=1e-3)
