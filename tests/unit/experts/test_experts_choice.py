"""When experts are grouped, when they stay the library's and why; and that nobody else notices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from tanren.common.config import LoraConfig
from tanren.common.coverage import coverage_of
from tanren.common.errors import UserError
from tanren.common.experts import _gate, choose_experts
from tanren.common.experts._products import add_by_expert, sums_by_expert
from tanren.common.lora import attach_adapter
from tanren.common.models.tiny import tiny_model

from .conftest import ATTENTION, DOWN, GATE_UP, MakeExperts, Pass, base, fill

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning"),
]
MOE, OSS = "tiny-qwen3-moe", "tiny-gpt-oss"


def _implementation(model: Any) -> str:
    return str(model.get_base_model().config._experts_implementation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("named", ["auto", "grouped"])
@pytest.mark.parametrize("name", [MOE, OSS, "mixtral"])
def test_experts_are_grouped_where_that_is_proven(
    mixture: MakeExperts, name: str, named: Any, dtype: torch.dtype
) -> None:
    model = mixture(name, dtype=dtype)
    choice = choose_experts(model, named)
    assert choice is not None
    assert choice.grouped
    assert choice.line().startswith("experts: grouped (proven on this model: results within ")
    assert _implementation(model) == "tanren_grouped"


def test_plain_experts_stay_the_librarys(mixture: MakeExperts) -> None:
    model = mixture(MOE)
    choice = choose_experts(model, "plain")
    assert choice is not None
    assert choice.line() == "experts: the library's (train.experts = plain)"
    assert _implementation(model) == "grouped_mm"


def test_a_model_without_experts_has_nothing_to_choose() -> None:
    model = attach_adapter(tiny_model("tiny-qwen3", torch.float32), LoraConfig())
    assert choose_experts(model, "auto") is None
    for named in ("grouped", "plain"):
        with pytest.raises(UserError, match=f"train.experts = {named}: this model has no fused experts"):
            choose_experts(model, named)


def _trained(make: MakeExperts) -> Any:
    model = make(MOE)
    model.get_base_model().requires_grad_(True)
    return model


def _peft_s_own(_: MakeExperts) -> Any:
    settings = PeftConfig(target_modules=["q_proj"], target_parameters=[DOWN])
    return get_peft_model(tiny_model(MOE, torch.float32), settings)


def _on_a_bias(make: MakeExperts) -> Any:
    return make(OSS, (GATE_UP, "mlp.experts.down_proj_bias"))


def _two(make: MakeExperts) -> Any:
    model = make(MOE)
    model.add_adapter("second", model.peft_config["default"])
    return model


REFUSED: dict[str, tuple[Callable[[MakeExperts], Any], str]] = {
    "trained themselves": (_trained, "the experts' own weights are trained"),
    "PEFT's own wrapper": (_peft_s_own, "its adapters on experts were not attached here"),
    "an adapter on a bias": (_on_a_bias, "an adapter is on down_proj_bias"),
    "two adapters": (_two, "its experts have more than one adapter"),
    "float16": (lambda make: make(MOE, dtype=torch.float16), "its experts are kept in float16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_grouped_keeps_the_librarys_way_and_says_why(mixture: MakeExperts, case: str) -> None:
    make, told = REFUSED[case]
    model = make(mixture)
    choice = choose_experts(model, "auto")
    assert choice is not None
    assert choice.line() == f"experts: the library's ({told})"
    assert _implementation(model) == "grouped_mm"
    with pytest.raises(UserError, match=r"train\.experts = grouped: .*; leave it at auto") as error:
        choose_experts(model, "grouped")
    assert told in str(error.value)


def _adds_twice(into: torch.Tensor, rows: torch.Tensor, matrices: torch.Tensor, groups: Any) -> torch.Tensor:
    return add_by_expert(into, rows, 2 * matrices, groups)


def _sums_of_others(left: torch.Tensor, right: torch.Tensor, groups: Any) -> torch.Tensor:
    return sums_by_expert(left, right, groups).flip(0)


@pytest.mark.parametrize(
    ("operation", "broken", "told"),
    [("add_by_expert", _adds_twice, "in the results"), ("sums_by_expert", _sums_of_others, "in the gradients")],
)
def test_experts_that_compute_something_else_are_refused(
    mixture: MakeExperts, monkeypatch: pytest.MonkeyPatch, operation: str, broken: Any, told: str
) -> None:
    monkeypatch.setattr(_gate, operation, broken)
    model = mixture(OSS)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    choice = choose_experts(model, "auto")
    assert choice is not None
    assert not choice.grouped
    assert "grouped experts differ from the library's on this model" in choice.why
    assert told in choice.why
    assert _implementation(model) == "grouped_mm"
    with pytest.raises(UserError, match="grouped experts differ"):
        choose_experts(model, "grouped")
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert model.training


def test_experts_that_do_not_run_here_are_refused_with_what_was_said(
    mixture: MakeExperts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("grouped_mm is for compute capability 8.0\nand more")

    monkeypatch.setattr(_gate, "add_by_expert", fails)
    choice = choose_experts(mixture(MOE), "auto")
    assert choice is not None
    assert choice.why == "grouped experts do not run here: RuntimeError: grouped_mm is for compute capability 8.0"


def test_the_proof_leaves_adapters_mode_and_gradients_as_they_were(mixture: MakeExperts) -> None:
    model, untouched = mixture(MOE), mixture(MOE)
    choose_experts(model, "grouped")
    assert model.training
    for (name, one), other in zip(model.named_parameters(), untouched.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert one.grad is None, name


@pytest.mark.parametrize("name", [MOE, OSS])
def test_an_adapter_is_saved_as_peft_saves_it_and_gives_plain_peft_the_same_logits(
    mixture: MakeExperts, run_pass: Pass, tmp_path: Path, name: str
) -> None:
    model = mixture(name)
    choose_experts(model, "grouped")
    model.save_pretrained(str(tmp_path / "ours"), save_embedding_layers=False)
    settings = PeftConfig(
        r=8, lora_alpha=12, target_modules=ATTENTION, target_parameters=[GATE_UP, DOWN], task_type="CAUSAL_LM"
    )
    plain = get_peft_model(base(name), settings)
    fill(plain)
    plain.save_pretrained(str(tmp_path / "peft"), save_embedding_layers=False)
    ours, theirs = (load_file(tmp_path / one / "adapter_model.safetensors") for one in ("ours", "peft"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    written, expected = (
        json.loads((tmp_path / one / "adapter_config.json").read_text(encoding="utf-8")) for one in ("ours", "peft")
    )
    for one in (written, expected):
        one["target_modules"] = sorted(one["target_modules"])
    assert written == expected
    loaded = PeftModel.from_pretrained(base(name), str(tmp_path / "ours"))
    with torch.no_grad():
        torch.testing.assert_close(run_logits(model), run_logits(loaded), rtol=1e-4, atol=1e-5)


def run_logits(model: Any) -> torch.Tensor:
    """Of some tokens."""
    logits: torch.Tensor = model(torch.arange(3, 60)[None], use_cache=False).logits
    return logits


def test_turned_off_merged_and_generating_adapters_are_what_they_were(mixture: MakeExperts) -> None:
    model = mixture(OSS).eval()
    with torch.no_grad():
        adapted = run_logits(model)
        with model.disable_adapter():
            alone = run_logits(model)
        written = model.generate(torch.arange(3, 20)[None], max_new_tokens=6, do_sample=False)
    choose_experts(model, "grouped")
    with torch.no_grad():
        torch.testing.assert_close(run_logits(model), adapted, rtol=1e-4, atol=1e-5)
        with model.disable_adapter():
            torch.testing.assert_close(run_logits(model), alone, rtol=1e-4, atol=1e-5)
        again = model.generate(torch.arange(3, 20)[None], max_new_tokens=6, do_sample=False)
        assert torch.equal(again, written)
        merged = model.merge_and_unload()
        torch.testing.assert_close(run_logits(merged), adapted, rtol=1e-4, atol=1e-5)


def test_what_an_adapter_reaches_is_told_as_before(mixture: MakeExperts) -> None:
    model = mixture(MOE)
    choose_experts(model, "grouped")
    coverage = coverage_of(model)
    assert "LoRA on 8 of 9 linear layers and 4 of 4 fused tensors of experts: 27,648 of" in coverage.line()
