"""rsLoRA, DoRA and experts of single layers: the right formula, the right file, and refusals before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tanren.common.config import Loaded, LoraConfig
from tanren.common.coverage import check_before_loading, coverage_of
from tanren.common.errors import UserError
from tanren.common.lora import attach_adapter
from tanren.common.models.source import resolve_source
from tanren.common.models.tiny import tiny_config, tiny_model, tiny_tokenizer
from tanren.common.plan.trace import Shape, empty_model
from tanren.sft.config import SftConfig
from tanren.sft.plan import make_plan

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
VARIANTS = [(False, False), (True, False), (False, True), (True, True)]


def _adapted(lora: LoraConfig) -> Any:
    torch.manual_seed(3)
    model = attach_adapter(tiny_model("tiny-qwen3", torch.float32), lora)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    return model.eval()


@pytest.mark.parametrize(("rslora", "dora"), VARIANTS)
def test_what_a_layer_computes_is_the_papers_formula(rslora: bool, dora: bool) -> None:
    lora = LoraConfig(rank=4, alpha=6, rslora=rslora, dora=dora, target_modules=["q_proj"])
    layer = _adapted(lora).get_base_model().model.layers[0].self_attn.q_proj
    weight, down, up = layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    scale = 6 / 2 if rslora else 6 / 4  # alpha / sqrt(rank), alpha / rank
    sum_ = weight + scale * up @ down
    if dora:  # the length of each output's weights is learned apart; it begins as that of the base weights
        sum_ = weight.norm(dim=1, keepdim=True) * sum_ / sum_.norm(dim=1, keepdim=True)
    values = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(values), values @ sum_.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rslora", "dora"), VARIANTS)
def test_a_saved_adapter_says_what_it_is_and_gives_the_same_logits_when_it_is_loaded(
    tmp_path: Path, rslora: bool, dora: bool
) -> None:
    from peft import PeftModel

    model = _adapted(LoraConfig(rank=4, rslora=rslora, dora=dora))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    written = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (written["use_rslora"], written["use_dora"]) == (rslora, dora)
    again = PeftModel.from_pretrained(tiny_model("tiny-qwen3", torch.float32), str(tmp_path)).eval()
    ids = torch.arange(3, 40)[None]
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
    assert coverage_of(model).line().startswith(("DoRA" if dora else "LoRA") + (" (rsLoRA scaling)" if rslora else ""))


def test_experts_of_a_named_layer_are_reached_and_no_others() -> None:
    config = tiny_config("tiny-gpt-oss")
    config.num_hidden_layers, config.layer_types = 12, ["full_attention"] * 12
    names = [f"{layer}.mlp.experts.{weight}" for layer in (1, 7) for weight in ("gate_up_proj", "down_proj")]
    model = empty_model(Shape("twelve", config), torch.float32)
    with model.device:
        adapted = attach_adapter(model, LoraConfig(target_modules=["q_proj"], target_parameters=names))
    coverage = coverage_of(adapted)
    assert sorted(coverage.parameters) == sorted(f"model.layers.{name}" for name in names)  # not those of layer 11
    assert len(coverage.missed) == 24 - 4


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"lora": {"dora": True, "target_parameters": ["mlp.experts.down_proj"]}},
            "lora.dora cannot be had with lora.target_parameters",
        ),
        (
            {"lora": {"dropout": 0.1, "target_parameters": ["mlp.experts.down_proj"]}},
            "lora.dropout = 0.1 cannot be had with lora.target_parameters",
        ),
        (
            {"lora": {"dora": True}, "model": {"quantisation": "int8"}},
            "lora.dora cannot be had with model.quantisation = int8",
        ),
        (
            {"lora": {"dora": True}, "model": {"quantisation": "fp8"}},
            "lora.dora cannot be had with model.quantisation = fp8",
        ),
    ],
)
def test_adapters_that_cannot_be_had_are_refused_in_the_plan(sections: dict[str, Any], told: str) -> None:
    config = SftConfig.model_validate(sections)
    with pytest.raises(UserError, match=told):
        make_plan(Loaded(config, {}, None))


def test_a_wrong_name_is_told_before_there_are_weights(tmp_path: Path) -> None:
    tiny_config("tiny-gpt-oss").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    source = resolve_source(str(tmp_path))  # a folder without weights
    check_before_loading(source, LoraConfig(target_modules=["q_proj", "o_proj"]))
    with pytest.raises(UserError, match="'q_prj' reaches nothing in this model: did you mean 'q_proj'"):
        check_before_loading(source, LoraConfig(target_modules=["q_prj", "o_proj"]))
    with pytest.raises(UserError, match="it misses 4 fused tensors of experts"):
        check_before_loading(source, LoraConfig())
