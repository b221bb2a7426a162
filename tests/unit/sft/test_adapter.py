"""What is said about the reach of an adapter."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tanren.common.models.tiny import tiny_model
from tanren.sft.adapter import coverage_line


@pytest.mark.parametrize(
    ("name", "targets", "told", "not_told"),
    [
        # 2 layers of q, k, v, o, gate, up, down; the output head is tied to the embeddings and left out
        ("tiny-qwen3", "all-linear", "LoRA on 14 of 15 linear layers: 16,384 of", "experts"),
        ("tiny-qwen3", ["q_proj"], "LoRA on 2 of 15 linear layers: 2,048 of", "experts"),  # 2 x 8 x (64 + 64)
        # 2 x (4 x 64 x 128 + 4 x 64 x 64) in the experts' two tensors
        ("tiny-gpt-oss", "all-linear", "98,304 parameters of fused experts are not reached", "routers"),
        ("tiny-qwen3-moe", "all-linear", "routers of experts are among them", "not reached"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_reach_of_an_adapter_is_told(name: str, targets: str | list[str], told: str, not_told: str) -> None:
    config = LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM")
    line = coverage_line(get_peft_model(tiny_model(name, torch.float32), config))
    assert told in line
    assert not_told not in line
