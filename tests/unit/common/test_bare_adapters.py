"""LoRA's products alone: the values and gradients of PEFT's layers, which keep what is not plain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tanren.common.adapted import adapters_at_work
from tanren.common.bare_adapters import bare_adapters, make_bare
from tanren.common.fused import choose_route
from tanren.common.models.tiny import tiny_model

IDS = torch.tensor([[5, 6, 7, 8], [11, 12, 9, 10]])
LAYERS = 2 * 7


def _adapted(dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    every: dict[str, Any] = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear"}
    return get_peft_model(tiny_model("tiny-qwen3", dtype), LoraConfig(**every | settings)).eval()


def _bare(model: Any) -> int:
    return sum("forward" in vars(module) for module in model.modules())


def _logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (_logits(model).float().log_softmax(-1)[..., 3] * torch.linspace(-1, 2, 8).view(2, 4)).sum().backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def test_values_and_gradients_are_the_librarys() -> None:
    model = _adapted(rank_pattern={"q_proj": 2})
    with adapters_at_work(model):
        expected, gradients = _logits(model).detach(), _gradients(model)
        with model.disable_adapter():
            without = _logits(model).detach()
        with bare_adapters(model):
            assert _bare(model) == LAYERS
            decoded = _logits(model).detach()
        assert _bare(model) == 0
        assert len(make_bare(model)) == LAYERS
        found, ours = _logits(model).detach(), _gradients(model)
        with bare_adapters(model):
            assert torch.equal(_logits(model).detach(), decoded)
        assert torch.equal(_logits(model).detach(), found)
    torch.testing.assert_close(decoded, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert float((without - expected).abs().max()) > 100 * float((found - expected).abs().max())
    assert len(gradients) == 2 * LAYERS
    for name, one in gradients.items():
        torch.testing.assert_close(ours[name], one, rtol=1e-4, atol=1e-6, msg=name)


def test_in_bfloat16_they_are_as_near_to_the_exact_ones_as_the_librarys() -> None:
    model, exact = _adapted(torch.bfloat16), _adapted()
    with adapters_at_work(model), adapters_at_work(exact):
        exact.load_state_dict(model.state_dict())
        reference, theirs = (_logits(exact), _gradients(exact)), (_logits(model).float(), _gradients(model))
        make_bare(model)
        ours = _logits(model).float(), _gradients(model)
    assert all(one.dtype == torch.float32 for one in ours[1].values())

    def far(found: tuple[torch.Tensor, dict[str, torch.Tensor]]) -> list[float]:
        errors = [float((found[0] - reference[0]).detach().abs().mean())]
        return errors + [float((found[1][name] - one).norm() / one.norm()) for name, one in reference[1].items()]

    assert far(ours)[0] < 1.5 * far(theirs)[0]
    assert sum(far(ours)[1:]) < 1.5 * sum(far(theirs)[1:])


def test_dropout_is_the_librarys() -> None:
    model = _adapted(lora_dropout=0.5).train()
    with adapters_at_work(model):
        model.train()
        torch.manual_seed(3)
        expected = _logits(model)
        with bare_adapters(model):
            torch.manual_seed(3)
            torch.testing.assert_close(_logits(model), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_layers_that_do_more_are_left_to_the_library(settings: dict[str, Any]) -> None:
    assert make_bare(_adapted(**settings)) == []


@torch.no_grad()
def test_an_adapter_that_is_merged_switched_off_or_not_alone_is_the_librarys() -> None:
    model = _adapted()
    model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.set_adapter("default")
    with adapters_at_work(model):
        expected = {"default": _logits(model)}
        model.base_model.set_adapter(["default", "second"])
        expected["both"] = _logits(model)
        model.set_adapter("default")
        with model.disable_adapter():
            expected["off"] = _logits(model)
        assert len(make_bare(model)) == LAYERS
        assert make_bare(model) == []
        torch.testing.assert_close(_logits(model), expected["default"], rtol=1e-5, atol=1e-6)
        with model.disable_adapter():
            assert torch.equal(_logits(model), expected["off"])
        model.base_model.set_adapter(["default", "second"])
        assert torch.equal(_logits(model), expected["both"])
        model.set_adapter("default")
        model.merge_adapter()
        torch.testing.assert_close(_logits(model), expected["default"], rtol=1e-4, atol=1e-5)
        model.unmerge_adapter()


def test_training_on_a_cpu_has_them_bare_unless_plain_layers_are_asked_for() -> None:
    model = _adapted()
    assert "of 14 LoRA layers the products alone" in choose_route(model, "auto", "none", "cpu").line()
    assert _bare(model) == LAYERS
    plain = _adapted()
    choose_route(plain, "plain", "none", "cpu")
    assert _bare(plain) == 0
