"""A pass for one token of each row: heads that share keys as one product, an output head in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tanren.common.attention.decoding import attend_grouped
from tanren.common.models.decoding import decoding
from tanren.common.models.tiny import tiny_model

IDS = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


def _logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, attention_mask=MASK).logits
    return found


@pytest.mark.parametrize("shared", [1, 2, 6])
@pytest.mark.parametrize("masked", ["none", "bool", "added"])
def test_grouped_attention_is_the_definitions(shared: int, masked: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 6, 1, 8, generator=generator, dtype=torch.float64)
    key, value = (torch.randn(3, shared, 5, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    seen = torch.ones(3, 1, 1, 5, dtype=torch.bool)
    seen[1, ..., :3] = masked == "none"
    mask = {"none": None, "bool": seen, "added": torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)}[masked]
    keys, values = (one.repeat_interleave(6 // shared, dim=1) for one in (key, value))
    expected = scaled_dot_product_attention(query, keys, values, None if masked == "none" else seen, scale=0.3)
    found = attend_grouped(query, key, value, mask, 0.3)
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=1e-6, atol=1e-6)  # scores are float32


@pytest.mark.parametrize("name", ["tiny-qwen3", "tiny-qwen3-moe", "tiny-gpt-oss"])
def test_a_decoding_step_is_the_plain_models(name: str) -> None:
    model = tiny_model(name, torch.float32).eval()
    own = model.config._attn_implementation
    with torch.no_grad():
        expected = _logits(model)[:, -1]
    with decoding(model):
        cache = model(input_ids=IDS[:, :-1], attention_mask=MASK[:, :-1], use_cache=True).past_key_values
        found = model(input_ids=IDS[:, -1:], attention_mask=MASK, past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == own
    with pytest.raises(IndexError), decoding(model.train()):
        model(input_ids=torch.tensor([[10**6]]))
    assert model.training
    assert model.config._attn_implementation == own


@pytest.mark.parametrize("name", ["tiny-qwen3", "tiny-gpt-oss"])
def test_logits_of_a_bfloat16_model_on_a_cpu_are_not_rounded(name: str) -> None:
    model = tiny_model(name, torch.bfloat16).eval()
    with decoding(model):
        hidden = model.model(input_ids=IDS).last_hidden_state
        found = model(input_ids=IDS).logits
    exact = hidden.double() @ model.lm_head.weight.double().T
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    assert model(input_ids=IDS).logits.dtype == torch.bfloat16
