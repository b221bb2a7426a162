"""What an adapter reaches: told, and refused where it is not what was asked for."""

from __future__ import annotations

import io

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model

from tanren.common.config import LoraConfig
from tanren.common.console import Console
from tanren.common.coverage import Coverage, check_before_loading, check_coverage, coverage_of, say_gradients
from tanren.common.errors import UserError
from tanren.common.models.source import resolve_source
from tanren.common.models.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def _lora(targets: str | list[str], parameters: list[str] | None = None) -> LoraConfig:
    return LoraConfig(rank=8, target_modules=targets, target_parameters=parameters or [])


def _adapted(name: str, lora: LoraConfig) -> torch.nn.Module:
    config = PeftConfig(
        r=lora.rank,
        target_modules=lora.target_modules,
        target_parameters=lora.target_parameters or None,
        task_type="CAUSAL_LM",
    )
    model: torch.nn.Module = get_peft_model(tiny_model(name, torch.float32), config)
    return model


def _coverage(name: str, lora: LoraConfig) -> Coverage:
    return coverage_of(_adapted(name, lora))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "lora", "told"),
    [
        # 2 layers of q, k, v, o, gate, up, down; the output head is tied to the embeddings and left out
        ("tiny-qwen3", _lora("all-linear"), "LoRA on 14 of 15 linear layers: 16,384 of"),
        ("tiny-qwen3", _lora(["q_proj"]), "LoRA on 2 of 15 linear layers: 2,048 of"),  # 2 x 8 x (64 + 64)
        (
            "tiny-gpt-oss",
            _lora(ATTENTION),
            "LoRA on 8 of 9 linear layers and 0 of 4 fused tensors of experts: 7,168 of",
        ),
        # attention: 2 x 8 x (2 x (64 + 64) + 2 x (64 + 32)); experts: 2 x 4 x 8 x ((64 + 128) + (64 + 64))
        ("tiny-gpt-oss", _lora(ATTENTION, EXPERTS), "and 4 of 4 fused tensors of experts: 27,648 of"),
        ("tiny-qwen3-moe", _lora(ATTENTION, EXPERTS), "and 4 of 4 fused tensors of experts: 27,648 of"),
        ("tiny-gpt-oss", _lora(ATTENTION, ["1.mlp.experts.down_proj"]), "and 1 of 4 fused tensors of experts: "),
    ],
)
def test_what_was_asked_for_is_reached_and_told(name: str, lora: LoraConfig, told: str) -> None:
    coverage = _coverage(name, lora)
    check_coverage(coverage, lora)
    assert told in coverage.line()


@pytest.mark.parametrize(
    ("name", "lora", "told"),
    [
        (
            "tiny-gpt-oss",
            _lora("all-linear"),
            "it misses 4 fused tensors of experts (model.layers.0.mlp.experts.gate_up_proj, ...); write what you mean, as flags: "
            "--lora.target-modules q_proj k_proj v_proj o_proj "
            "--lora.target-parameters mlp.experts.gate_up_proj mlp.experts.down_proj",
        ),
        ("tiny-qwen3-moe", _lora("all-linear"), "it puts an adapter on 2 routers (model.layers.0.mlp.gate, ...)"),
        ("tiny-qwen3", _lora(["q_proj", "v_prj"]), "'v_prj' reaches nothing in this model: did you mean 'v_proj'?"),
        (
            "tiny-gpt-oss",
            _lora(ATTENTION, ["mlp.experts.gate_up"]),
            "'mlp.experts.gate_up' reaches nothing in this model: did you mean 'mlp.experts.gate_up_proj'?",
        ),
        ("tiny-gpt-oss", _lora(ATTENTION, ["9.mlp.experts.down_proj"]), "'9.mlp.experts.down_proj' reaches nothing"),
        (
            "tiny-qwen3",
            _lora(["q_proj"], EXPERTS),
            "'mlp.experts.gate_up_proj' reaches nothing in this model: there are none",
        ),
    ],
)
def test_what_is_missed_or_caught_unasked_is_refused(name: str, lora: LoraConfig, told: str) -> None:
    with pytest.raises(UserError) as error:
        check_coverage(_coverage(name, lora), lora)
    assert told in str(error.value)


def test_where_no_name_is_right_the_nearest_is_told() -> None:
    with pytest.raises(
        UserError, match=r"lora.target_modules: 'q_prj' reaches nothing in this model: did you mean 'q_proj'\?"
    ):
        check_before_loading(resolve_source("builtin:tiny-qwen3"), _lora(["q_prj"]))


def test_after_the_first_step_it_is_said_which_weights_have_a_gradient() -> None:
    model = _adapted("tiny-gpt-oss", _lora(ATTENTION, EXPERTS))
    console = Console(stream=io.StringIO())
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    say_gradients(trained, console)
    ids = torch.randint(3, 259, (1, 40), generator=torch.Generator().manual_seed(1))
    model(input_ids=ids, labels=ids).loss.backward()
    say_gradients(trained, console)
    before, after = console.stream.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "step 1: 24 of 24 trained tensors received no gradient" in before
    assert "step 1: all 24 trained tensors received a gradient" in after
