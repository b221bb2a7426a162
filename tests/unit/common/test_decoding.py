"""A pass for one token of each row: LoRA's products alone, and heads that share keys as one product."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import scaled_dot_product_attention

from tanren.common.adapted import adapters_at_work
from tanren.common.attention.decoding import attend_grouped
from tanren.common.models.decoding import bare_adapters, decoding
from tanren.common.models.tiny import tiny_model

IDS = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


def _adapted(name: str = "tiny-qwen3", dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    every: dict[str, Any] = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear"}
    return get_peft_model(tiny_model(name, dtype), LoraConfig(**every | settings)).eval()


def _bare(model: Any) -> int:
    return sum("forward" in vars(module) for module in model.modules())


def _logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, attention_mask=MASK).logits
    return found


@torch.no_grad()
def test_an_adapter_computed_bare_is_the_librarys() -> None:
    model = _adapted(rank_pattern={"q_proj": 2})
    with adapters_at_work(model):
        expected = _logits(model)
        with model.disable_adapter():
            without = _logits(model)
        with bare_adapters(model):
            assert _bare(model) == 2 * 7
            found = _logits(model)
        assert _bare(model) == 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert float((without - expected).abs().max()) > 100 * float((found - expected).abs().max())


@torch.no_grad()
def test_in_bfloat16_it_is_as_near_to_the_exact_values_as_the_librarys() -> None:
    model, exact = _adapted(dtype=torch.bfloat16), _adapted()
    with adapters_at_work(model), adapters_at_work(exact):
        exact.load_state_dict(model.state_dict())
        reference, theirs = _logits(exact), _logits(model).float()
        with bare_adapters(model):
            ours = _logits(model).float()
    assert float((ours - reference).abs().mean()) < 1.2 * float((theirs - reference).abs().mean())


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
@torch.no_grad()
def test_layers_that_do_more_are_left_to_the_library(settings: dict[str, Any]) -> None:
    with bare_adapters(model := _adapted(**settings)):
        assert _bare(model) == 0


@torch.no_grad()
def test_adapters_that_are_merged_switched_off_or_two_are_left_to_the_library() -> None:
    model = _adapted()
    model.merge_adapter()
    with bare_adapters(model):
        assert _bare(model) == 0
    model.unmerge_adapter()
    with model.disable_adapter(), bare_adapters(model):
        assert _bare(model) == 0
    model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear"))
    model.base_model.set_adapter(["default", "second"])
    with bare_adapters(model):
        assert _bare(model) == 0
    model.set_adapter("second")
    with bare_adapters(model):
        assert _bare(model) == 14


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
