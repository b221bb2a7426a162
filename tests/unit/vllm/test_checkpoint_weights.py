"""The weights that vLLM is given, against the files that the library writes of the merged model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from tanren.common.models.tiny import tiny_model
from tanren.common.vllm import adapted_names, checkpoint_weights, head_stands_apart

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def _adapted(name: str, **settings: Any) -> Any:
    model: Any = get_peft_model(tiny_model(name, torch.float32), LoraConfig(r=4, **settings))
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    return model


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tiny-qwen3", {"target_modules": ["q_proj", "down_proj"]}),
        ("tiny-qwen3", {"target_modules": ["q_proj", "down_proj"], "use_dora": True}),
        ("tiny-qwen3-moe", {"target_modules": ["q_proj"], "target_parameters": EXPERTS}),
        ("tiny-gpt-oss", {"target_modules": ["q_proj", "o_proj"], "target_parameters": EXPERTS}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_they_are_the_merged_models_files(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    model = _adapted(name, **settings)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = {key: value.clone() for key, value in checkpoint_weights(model)}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    copy.deepcopy(model).merge_and_unload().save_pretrained(tmp_path)
    written = {key: value for file in tmp_path.glob("*.safetensors") for key, value in load_file(file).items()}
    assert set(found) == set(written)
    for key, value in written.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_only_what_the_adapter_changes_comes_again_and_again() -> None:
    model = _adapted("tiny-qwen3", target_modules=["q_proj"])
    names = adapted_names(model)
    assert names == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}
    assert {name for name, _ in checkpoint_weights(model, only=names)} == names
    every = dict(checkpoint_weights(model))
    assert any(name not in names for name in every)
    assert not adapted_names(tiny_model("tiny-qwen3", torch.float32))


@pytest.mark.filterwarnings("ignore")
def test_one_tensor_for_head_and_embeddings_is_two_where_the_adapter_changes_the_head() -> None:
    plain = _adapted("tiny-qwen3", target_modules=["q_proj"])
    assert not head_stands_apart(plain)
    assert "lm_head.weight" not in dict(checkpoint_weights(plain))
    model = _adapted("tiny-qwen3", target_modules=["lm_head"])
    assert head_stands_apart(model)
    found = dict(checkpoint_weights(model))
    layer = model.get_base_model().lm_head
    torch.testing.assert_close(found["lm_head.weight"], layer.base_layer.weight + layer.get_delta_weight("default"))
    assert torch.equal(found["model.embed_tokens.weight"], layer.base_layer.weight)


@pytest.mark.filterwarnings("ignore")
def test_bfloat16_is_rounded_once() -> None:
    model = _adapted("tiny-qwen3", target_modules=["q_proj"])
    name = "model.layers.0.self_attn.q_proj"
    layer = model.get_base_model().get_submodule(name)
    layer.base_layer.to(torch.bfloat16)  # the adapter stays float32, as a training keeps it
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    exact = layer.base_layer.weight.double() + (b.double() @ a.double()) * layer.scaling["default"]
    found = dict(checkpoint_weights(model))[f"{name}.weight"]
    assert found.dtype == torch.bfloat16
    unit_roundoff = 2**-8  # of bfloat16; what float32 adds to it is the 1e-6
    assert bool(((found.double() - exact).abs() <= exact.abs() * unit_roundoff + 1e-6).all())
